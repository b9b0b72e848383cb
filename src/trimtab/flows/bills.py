"""What a project's own work costs, in its ledger, and what was left unpaid.

Training costs the machine's hours, and what was asked of versions their price a token, as for
anybody who asks over HTTP.
"""

from collections.abc import Mapping
from decimal import Decimal

from trimtab.flows import slips
from trimtab.flows.slips import Payer
from trimtab.inference import Usage
from trimtab.ledger.money import nano
from trimtab.ledger.own import spend, spend_in_all
from trimtab.ledger.prices import prices_of
from trimtab.store.database import Connection, Database
from trimtab.store.home import Home
from trimtab.train.run import RunFolder
from trimtab.train.watch.limits import Limits


def bill_training(connection: Connection, project: str, run: str, usd: float) -> None:
    """Charge what a run has cost in all so far. It is one run for every release, project and sweep
    that comes upon it, and is paid once; where it went on, the rest."""
    total = nano(Decimal(str(usd)))
    spend_in_all(connection, project, f"training/{run}", total, "training")


def bill_asked(connection: Connection, payer: Payer, name: str, used: Mapping[str, Usage]) -> None:
    """Charge what was asked of versions, once under the name."""
    # On trial a version has a name of its own, with its hash before the '+'.
    asked = [(version.partition("+")[0], usage) for version, usage in used.items()]
    prices = prices_of(connection, [version for version, _ in asked])
    # What has no price is not registered: the project's own work in progress.
    amount = sum(
        prices.get(version, payer.others).of(usage.prompt, usage.completion, usage.cached)
        for version, usage in asked
    )
    if amount:
        spend(connection, payer.project, name, amount, payer.kind)


def cost_so_far(home: Home, run: str, usd_hour: float) -> float:
    """Dollars that a run of this home has cost, by its own folder."""
    return Limits(usd_hour=usd_hour).usd(RunFolder(home.runs / run).used_s)


def settle_left(home: Home, database: Database) -> int:
    """Charge what was killed while it worked, and what the ledger would not take; how many slips
    these were. Raises StoreError, with the rest left for another time."""
    settled = 0
    for each in slips.left(home):
        slip = each.slip
        with database.transaction() as connection:
            bill_asked(connection, slip.payer, slip.name, each.used)
            for run, usd_hour in each.runs.items():
                usd = cost_so_far(home, run, usd_hour)
                bill_training(connection, slip.payer.project, run, usd)
        slip.drop()
        settled += 1
    return settled
