"""What a loop spends by itself: training, and what it asks of models to judge a version.

It is known when it is over, so nothing is held for it. A project's budget counts it: what is beyond
its limit is spent already, shuts it for everything else, and is what a higher limit covers first.
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
    row = {
        "id": new_id(),
        "key_id": _payer(project),
        "request_id": name,
        "amount_nano": amount_nano,
        "kind": kind,
        "created_us": database_now(connection),
    }
    if not insert_once(connection, spends, row):
        return False
    _count(connection, project, amount_nano)
    return True


def spend_in_all(
    connection: Connection, project: str, name: str, total_nano: int, kind: str
) -> None:
    """Note what work that goes on by and by has cost in all so far. What was noted of it under its
    name before, by whichever project, counts once; its line of the ledger grows."""
    if not total_nano:
        return
    mine = spends.c.request_id == name
    noted = connection.execute(spends.select().where(mine).with_for_update()).first()
    if noted is None:
        spend(connection, project, name, total_nano, kind)
    elif (more := total_nano - noted.amount_nano) > 0:
        connection.execute(spends.update().where(mine).values(amount_nano=total_nano))
        _count(connection, project, more)


def spent(connection: Connection, project: str) -> Mapping[str, int]:
    """What a project's loop has spent so far, in nano-dollars, by kind of work."""
    rows = connection.execute(OWN_SPENDS, {"payer": _payer(project)})
    return {row[0]: int(row[1]) for row in rows}


def _count(connection: Connection, project: str, amount_nano: int) -> None:
    """In the project's budgets."""
    now = database_now(connection)
    budgets = budgets_of(connection, [account_of("project", project)], lock=True)
    for budget in budgets:
        budget.roll(now)
        budget.charge(amount_nano)
    write_budgets(connection, budgets)


def _payer(project: str) -> str:
    """In the place of a key's id, which never looks like this."""
    return f"@{project}"
