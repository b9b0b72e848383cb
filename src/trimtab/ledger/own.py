"""What a loop spends by itself: training, and what it asks of models to judge a version.

It is known when it is over, so nothing is held for it. A project's budget counts it up to its
limit: what is beyond that is spent already, and shuts the budget for everything else.
"""

from collections.abc import Mapping

from trimtab.ledger.accounts import account_of, budgets_of, write_budgets
from trimtab.ledger.tables import OWN_SPENDS, database_now, spends
from trimtab.store.database import Connection
from trimtab.store.ids import new_id
from trimtab.store.rows import insert_once


def spend(connection: Connection, project: str, name: str, amount_nano: int, kind: str) -> bool:
    """Note nano-dollars that a project's loop has spent on a `kind` of work, once under a name;
    False where it was noted before, which changes nothing."""
    now = database_now(connection)
    row = {
        "id": new_id(),
        "key_id": _payer(project),
        "request_id": name,
        "amount_nano": amount_nano,
        "kind": kind,
        "created_us": now,
    }
    budgets = budgets_of(connection, [account_of("project", project)], lock=True)
    if not insert_once(connection, spends, row):
        return False
    for budget in budgets:
        budget.roll(now)
        left = budget.left_nano
        budget.spent_nano += amount_nano if left is None else min(amount_nano, max(0, left))
        budget.warn()
    write_budgets(connection, budgets)
    return True


def spent(connection: Connection, project: str) -> Mapping[str, int]:
    """What a project's loop has spent so far, in nano-dollars, by kind of work."""
    rows = connection.execute(OWN_SPENDS, {"payer": _payer(project)})
    return {row[0]: int(row[1]) for row in rows}


def _payer(project: str) -> str:
    """In the place of a key's id, which never looks like this."""
    return f"@{project}"
