"""The history of a ledger, written by the database itself, and a checker of it.

Triggers note every change of a budget and of a hold in the transaction that makes it, so what is
read back is every committed state there was, in order, whoever made it and however it died. The
checker knows the words of the ledger and none of its code: it keeps its own sums.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import text

from trimtab.store.database import Connection, Database

_TABLE = """CREATE TABLE history (n {serial}, what TEXT, name TEXT, state TEXT, charged TEXT,
    amount BIGINT, settled BIGINT, spent BIGINT, held BIGINT, most BIGINT, window_ BIGINT)"""
_BUDGET = """INSERT INTO history (what, name, spent, held, most, window_) VALUES ('budget',
    NEW.account || '|' || NEW.period, NEW.spent_nano, NEW.held_nano, NEW.limit_nano,
    NEW.period_window)"""
_HOLD = """INSERT INTO history (what, name, state, charged, amount, settled) VALUES ('hold',
    NEW.id, NEW.state, NEW.charged, NEW.amount_nano, NEW.settled_nano)"""


def record(database: Database) -> None:
    """Note every change from now on."""
    sqlite = database.url.drivername == "sqlite"
    serial = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY"
    with database.transaction() as connection:
        connection.execute(text(_TABLE.format(serial=serial)))
        for table, insert in (("budgets", _BUDGET), ("holds", _HOLD)):
            for event in ("INSERT", "UPDATE"):
                for statement in _triggers(sqlite, table, event, insert):
                    connection.execute(text(statement))


def _triggers(sqlite: bool, table: str, event: str, insert: str) -> Iterator[str]:
    name = f"note_{table}_{event.lower()}"
    if sqlite:
        yield f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN {insert}; END"
        return
    yield (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$body$ BEGIN {insert}; RETURN NULL; END $body$"
    )
    yield f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"


@dataclass
class Sums:
    """What a budget has to say, by the holds that name it: those that are open, and what the
    closed ones came to."""

    open: dict[str, int] = field(default_factory=dict)
    spent: int = 0
    window: int | None = None
    said: tuple[int, int] | None = None


@dataclass
class Verdict:
    """How many states were looked at, and what was wrong with them."""

    states: int = 0
    wrong: list[str] = field(default_factory=list)


def check(connection: Connection, acknowledged: Iterable[Mapping[str, object]] = ()) -> Verdict:
    """Judge a history, and what its writers were told (`request` and the `amount` spent, or `hold`
    and the `amount` held) before they died.

    For every state of every budget: spent + held <= limit; both are the sums of its holds; a hold
    is closed once, for no more than its amount; and nothing that was acknowledged is missing.
    """
    verdict, sums = Verdict(), dict[str, Sums]()
    closed: dict[str, int] = {}
    held: set[tuple[str, int]] = set()
    for row in connection.execute(text("SELECT * FROM history ORDER BY n")):
        if row.what == "budget":
            verdict.states += 1
            _budget(row.name, row, sums.setdefault(row.name, Sums()), verdict)
            continue
        held.add((row.name, row.amount))
        if row.name in closed and row.state == "open":
            verdict.wrong.append(f"{row.n}: hold {row.name} was opened again")
        first = row.state != "open" and row.name not in closed
        if row.state != "open":
            if closed.setdefault(row.name, row.settled) != row.settled:
                verdict.wrong.append(f"{row.n}: hold {row.name} was settled twice")
            if not 0 <= row.settled <= row.amount:
                verdict.wrong.append(f"{row.n}: hold {row.name} came to {row.settled}")
        for name in row.charged.split("\n"):
            mine = sums.setdefault(name, Sums())
            if row.state == "open":
                mine.open[row.name] = row.amount
            elif first:
                mine.open.pop(row.name, None)
                mine.spent += row.settled
    for name, mine in sums.items():
        _agrees(name, mine, verdict)
    _told(connection, acknowledged, held, verdict)
    return verdict


def _budget(name: str, row: object, mine: Sums, verdict: Verdict) -> None:
    spent, held, most = row.spent, row.held, row.most  # type: ignore[attr-defined]
    n, window = row.n, row.window_  # type: ignore[attr-defined]
    if spent < 0 or held < 0 or (most is not None and spent + held > most):
        verdict.wrong.append(f"{n}: {name}: {spent} spent and {held} held of {most}")
    # A transaction changes budgets before holds, so the sums are now those of the last state.
    _agrees(name, mine, verdict)
    if mine.window is not None and window != mine.window:
        # A new day: what was spent before it is not in its sum.
        mine.spent = 0
    mine.window, mine.said = window, (spent, held)


def _agrees(name: str, mine: Sums, verdict: Verdict) -> None:
    if mine.said is not None and mine.said != (mine.spent, sum(mine.open.values())):
        sums = (mine.spent, sum(mine.open.values()))
        verdict.wrong.append(f"{name} said {mine.said} (spent, held), its holds say {sums}")


def _told(
    connection: Connection,
    acknowledged: Iterable[Mapping[str, object]],
    held: set[tuple[str, int]],
    verdict: Verdict,
) -> None:
    spends = {
        row.request_id: row.amount_nano
        for row in connection.execute(text("SELECT request_id, amount_nano FROM spends"))
    }
    costs = {
        row.id: row.cost_nano
        for row in connection.execute(text("SELECT id, cost_nano FROM requests"))
    }
    for request, cost in costs.items():
        if cost != spends.get(request, 0):
            verdict.wrong.append(f"{request}: the log has {cost}, the ledger {spends.get(request)}")
    for told in acknowledged:
        if "hold" in told and (told["hold"], told["amount"]) not in held:
            verdict.wrong.append(f"hold {told['hold']} was acknowledged and is not there")
        if "request" in told and spends.get(str(told["request"])) != told["amount"]:
            verdict.wrong.append(f"spend {told['request']} was acknowledged and is not there")
