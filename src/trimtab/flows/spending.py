"""What a step of the loop has spent, written to the ledger with the step.

Training costs the machine's hours, and what was asked of versions costs their price a token, as for
anybody who asks over HTTP. A step that fails is charged as far as it came. Of one that is killed,
the training is charged with the attempt that goes on, and what it had asked is nobody's debt.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.flows.backends import price_of_tokens
from trimtab.flows.work import Work
from trimtab.inference import Usage
from trimtab.ledger.money import nano
from trimtab.ledger.own import spend, spend_in_all
from trimtab.ledger.prices import prices_of
from trimtab.store.database import Connection
from trimtab.store.ids import new_id
from trimtab.train.limits import Limits
from trimtab.train.run import RunFolder


def charged(
    work: Work, step: str, key: str, output: Mapping[str, Any]
) -> Callable[[Connection], None]:
    """Writes what the step has spent since the one before it. What was asked is named by the step's
    own key, the hours of training by their run."""
    used, project = work.meter.take(), work.project.name
    kind = _kind(step)

    def write(connection: Connection) -> None:
        # Of the other outputs, those that know a price speak of what it would be.
        if step == "train":
            bill_training(connection, project, output["run"], output["usd"])
        if asked := _asked_nano(connection, work, used):
            spend(connection, project, f"{project}/{kind}/{key}", asked, kind)

    return write


@contextmanager
def charged_as_far(work: Work, step: str, key: str) -> Iterator[None]:
    """Around a step: what it has asked is charged where it fails, each time that it does."""
    try:
        yield
    except BaseException:
        used, kind = work.meter.take(), _kind(step)
        # The ledger's own fault does not hide why the step ended.
        with suppress(TrimtabError), work.database.transaction() as connection:
            if asked := _asked_nano(connection, work, used):
                name = f"{work.project.name}/{kind}/{key}/{new_id()}"
                spend(connection, work.project.name, name, asked, kind)
        raise


@contextmanager
def billed_as_far(work: Work, run: str, limits: Limits) -> Iterator[None]:
    """Around a training: what its run has used is charged where it ends by an error. An attempt
    that goes on is charged the rest, and all where the ledger could not be written here.
    """
    try:
        yield
    except BaseException:
        usd = limits.usd(RunFolder(work.home.runs / run).used_s)
        with suppress(TrimtabError), work.database.transaction() as connection:
            bill_training(connection, work.project.name, run, usd)
        raise


def bill_training(connection: Connection, project: str, run: str, usd: float) -> None:
    """Charge what a run has cost in all so far. It is one run for every release, project and sweep
    that comes upon it, and is paid once; where it went on, the rest."""
    total = nano(Decimal(str(usd)))
    spend_in_all(connection, project, f"training/{run}", total, "training")


def _kind(step: str) -> str:
    # What is asked while it trains are the questions to a judge.
    return "judge" if step == "train" else step


def _asked_nano(connection: Connection, work: Work, used: Mapping[str, Usage]) -> int:
    # On trial a version has a name of its own, with its hash before the '+'.
    asked = [(name.partition("+")[0], usage) for name, usage in used.items()]
    prices = prices_of(connection, [version for version, _ in asked])
    # What has no price is not registered: the project's own work in progress.
    others = price_of_tokens(work.project)
    return sum(
        prices.get(version, others).of(usage.prompt, usage.completion, usage.cached)
        for version, usage in asked
    )
