"""What a hold is and how its row reads. The rules of reserving and settling are the `till`'s."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from trimtab.errors import LedgerError
from trimtab.ledger.tables import KEEP_HOLDS, LOCK_HOLDS, NOTE_HOLD, READ_HOLDS, holds
from trimtab.store.database import Connection
from trimtab.store.ids import new_id

# A hold that outlives processes belongs to work that does: whoever keeps that work closes it.
NEVER_US = 2**62
_COLUMNS = tuple(column.name for column in holds.columns)
_values = attrgetter(*_COLUMNS)

Charged = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """In nano-dollars. `floor_nano` is what the request costs at least, once it was admitted; it
    grows with what the journal hears was generated.

    A hold is settled once. One that nobody settled before `expires_us` was left by a crash: it
    settles to its floor and is marked `estimated`. `charged` names the budgets it counts in.
    """

    id: str
    key_id: str
    request_id: str
    amount_nano: int
    floor_nano: int
    state: Literal["open", "settled", "expired"]
    settled_nano: int | None
    estimated: bool
    created_us: int
    expires_us: int
    owner: str
    charged: Charged

    @property
    def accounts(self) -> frozenset[str]:
        return frozenset(account for account, _ in self.charged)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reservation: `fixed` nano-dollars, and `unit` for each of up to `units` more, of which
    `least` must be covered. `accounts` are those that pay; the first is the key's own."""

    key_id: str
    request_id: str
    accounts: tuple[str, ...]
    fixed: int
    floor: int
    expires_us: int
    owner: str = ""
    unit: int = 0
    units: int = 0
    least: int = 0
    id: str = field(default_factory=new_id)


def find(connection: Connection, request_id: str) -> Hold | None:
    """The hold of a request, whatever became of it."""
    row = connection.execute(holds.select().where(holds.c.request_id == request_id)).first()
    return None if row is None else of_row(row)


def of_requests(connection: Connection, requests: Iterable[str]) -> Sequence[Hold]:
    """The holds of requests, those that have one."""
    wanted = sorted(set(requests))
    rows = connection.execute(holds.select().where(holds.c.request_id.in_(wanted)))
    return tuple(of_row(row) for row in rows)


def get(connection: Connection, hold_id: str) -> Hold:
    """Raises LedgerError for a hold that was never made."""
    for found in of_ids(connection, [hold_id]):
        return found
    raise LedgerError(f"no hold {hold_id}")


def of_ids(connection: Connection, ids: Iterable[str], *, lock: bool = False) -> Sequence[Hold]:
    """The holds of these ids; with `lock`, nobody else can change them until the transaction ends.

    All lock them in the order of their ids, so that no two wait for each other.
    """
    query = LOCK_HOLDS if lock else READ_HOLDS
    return tuple(of_row(row) for row in query.rows(connection, ids=sorted(set(ids))))


def suspects(connection: Connection, now: int, back_us: int = 2**61) -> Sequence[Hold]:
    """The open holds whose gateway has not been heard of since before `now`, and those that were
    made more than `back_us` after it; never those that do not expire."""
    old = (holds.c.expires_us <= now) | (holds.c.created_us > now + back_us)
    open_ = (holds.c.state == "open") & (holds.c.expires_us < NEVER_US)
    query = holds.select().where(open_ & old).order_by(holds.c.id)
    return tuple(of_row(row) for row in connection.execute(query))


def any_open(connection: Connection) -> bool:
    """Whether money is held for anybody."""
    return connection.execute(holds.select().where(holds.c.state == "open")).first() is not None


def beat(connection: Connection, floors: Mapping[str, int], expires_us: int) -> None:
    """A living gateway keeps its holds (by id) open, and journals what each has cost so far: what
    it settles to after a crash. A hold that it does not name is not kept: nobody works for it."""
    if not floors:
        return
    of_ids(connection, floors, lock=True)
    connection.execute(KEEP_HOLDS, {"ids": sorted(floors), "to_us": expires_us})
    values = [{"at_id": hold_id, "to_nano": floor} for hold_id, floor in floors.items() if floor]
    if values:
        connection.execute(NOTE_HOLD, values)


def of_row(row: Any) -> Hold:
    charged = tuple(
        (account, period)
        for account, _, period in (part.rpartition("|") for part in row.charged.split("\n"))
    )
    return Hold(**{**row._asdict(), "charged": charged})


def to_row(hold: Hold) -> dict[str, Any]:
    charged = "\n".join(f"{account}|{period}" for account, period in hold.charged)
    return {**dict(zip(_COLUMNS, _values(hold), strict=True)), "charged": charged}
