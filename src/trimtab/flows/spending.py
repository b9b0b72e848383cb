"""What a step of the loop has spent, written to the ledger with the step.

A step that fails is charged as far as it came. What the ledger could not take, and what a process
that was killed had spent, stands on a slip, and is charged by the next run of any project of the
home, or by its server.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.flows import bills, slips
from trimtab.flows.backends import price_of_tokens
from trimtab.flows.slips import Payer
from trimtab.flows.work import Work
from trimtab.store.database import Connection
from trimtab.train.watch.limits import Limits

Charge = Callable[[Connection, Mapping[str, Any]], None]
"""Writes what a step has spent, in the transaction that has its output."""


@contextmanager
def charged(work: Work, step: str, key: str) -> Iterator[Charge]:
    """Around a step and the transaction that ends it. Where either fails, what was asked until then
    is charged by itself, each time."""
    payer = Payer(
        project=work.project.name,
        # What is asked while it trains are the questions to a judge.
        kind="judge" if step == "train" else step,
        name=f"{work.project.name}/{step}/{key}",
        others=price_of_tokens(work.project),
    )
    with slips.begun(work.home, payer) as slip, work.meter.telling(slip.asked):

        def charge(connection: Connection, output: Mapping[str, Any]) -> None:
            # Of the other outputs, those that know a price speak of what it would be.
            if step == "train":
                bills.bill_training(connection, payer.project, output["run"], output["usd"])
            bills.bill_asked(connection, payer, slip.name, work.meter.used)

        try:
            yield charge
        except BaseException:
            # The ledger's own fault does not hide why the step ended.
            with suppress(TrimtabError):
                with work.database.transaction() as connection:
                    bills.bill_asked(connection, payer, slip.name, work.meter.used)
                slip.drop()
            raise
        slip.drop()


@contextmanager
def billed_as_far(work: Work, run: str, limits: Limits) -> Iterator[None]:
    """Around a training: what its run has used is charged however it ends. An attempt that goes on
    is charged the rest."""
    project = work.project.name
    payer = Payer(project, "training", f"training/{run}", price_of_tokens(work.project))
    with slips.begun(work.home, payer) as slip:
        slip.trains(run, limits.usd_hour)
        try:
            yield
        finally:
            usd = bills.cost_so_far(work.home, run, limits.usd_hour)
            with suppress(TrimtabError):
                with work.database.transaction() as connection:
                    bills.bill_training(connection, project, run, usd)
                slip.drop()
