"""The ledger's tables and its clock. Money is in integer nano-dollars."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    func,
    select,
)

from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.metadata import metadata
from trimtab.store.prepared import Change, Put, Query

# A version's price counts from its date until the next one's.
prices = Table(
    "prices",
    metadata,
    Column("version_hash", String(64), primary_key=True),
    Column("from_us", BigInteger, primary_key=True, autoincrement=False),
    Column("prompt_nano", BigInteger, nullable=False),
    Column("completion_nano", BigInteger, nullable=False),
    # Of a token of the prompt that was computed before; as another of the prompt where it is null.
    Column("cached_nano", BigInteger),
    CheckConstraint("cached_nano >= 0 AND cached_nano <= prompt_nano", name="cached"),
    CheckConstraint("prompt_nano >= 0 AND completion_nano >= 0", name="not_negative"),
)

# `account` is key:ID, owner:NAME or project:NAME; `period_window` counts days or months.
budgets = Table(
    "budgets",
    metadata,
    Column("account", String(160), primary_key=True),
    Column("period", String(5), primary_key=True),
    Column("limit_nano", BigInteger),
    Column("period_window", BigInteger, nullable=False),
    Column("spent_nano", BigInteger, nullable=False),
    Column("held_nano", BigInteger, nullable=False),
    Column("warned", Integer, nullable=False),
    # What a project's loop has spent beyond the limit, since nobody holds money for it.
    Column("beyond_nano", BigInteger, nullable=False, server_default="0"),
    # The promise itself, kept by the database even where our code is wrong.
    CheckConstraint("spent_nano >= 0 AND held_nano >= 0", name="not_negative"),
    CheckConstraint("beyond_nano >= 0", name="beyond"),
    CheckConstraint(
        "limit_nano IS NULL OR spent_nano + held_nano <= limit_nano", name="within_limit"
    ),
    CheckConstraint("period IN ('day', 'month', 'total')", name="period"),
)

# `charged` lists the budgets that a hold counts in, one a line: account|period.
holds = Table(
    "holds",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("request_id", Text, nullable=False, unique=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("floor_nano", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("settled_nano", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("charged", Text, nullable=False),
    CheckConstraint("floor_nano >= 0 AND floor_nano <= amount_nano", name="floor_within_amount"),
    CheckConstraint("settled_nano >= 0 AND settled_nano <= amount_nano", name="settled_within"),
    CheckConstraint("state IN ('open', 'settled', 'expired')", name="state"),
    Index(None, "state", "expires_us"),
)

spends = Table(
    "spends",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("request_id", Text, nullable=False, unique=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "key_id", "created_us"),
)

# The statements of every request, built once.
_BUDGETS = (
    budgets.select()
    .where(budgets.c.account.in_(bindparam("accounts", expanding=True)))
    .order_by(budgets.c.account, budgets.c.period)
)
READ_BUDGETS = Query(_BUDGETS, over="accounts")
LOCK_BUDGETS = Query(_BUDGETS.with_for_update(), over="accounts")
_HOLDS = holds.select().where(holds.c.id.in_(bindparam("ids", expanding=True))).order_by(holds.c.id)
READ_HOLDS = Query(_HOLDS, over="ids")
LOCK_HOLDS = Query(_HOLDS.with_for_update(), over="ids")
# Of a hold that stands, what was wanted and for how long stays.
PUT_HOLDS = Put(
    holds,
    key=["id"],
    keep=["key_id", "request_id", "created_us", "expires_us", "owner", "charged"],
)
SPEND = Put(spends)
OWN_SPENDS = (
    select(spends.c.kind, func.sum(spends.c.amount_nano))
    .where(spends.c.key_id == bindparam("payer"))
    .group_by(spends.c.kind)
    .order_by(spends.c.kind)
)
KEEP_HOLDS = (
    holds.update()
    .where(holds.c.id.in_(bindparam("ids", expanding=True)) & (holds.c.state == "open"))
    .values(expires_us=bindparam("to_us"))
)
READ_PRICES = Query(
    prices.select()
    .where(prices.c.version_hash.in_(bindparam("versions", expanding=True)))
    .where(prices.c.from_us <= bindparam("at_us"))
    .order_by(prices.c.from_us),
    over="versions",
)
PUT_BUDGETS = Put(budgets, key=["account", "period"], keep=["limit_nano"])
DELETE_HOLDS = Change(holds.delete().where(holds.c.id == bindparam("at_id")))
NOTE_HOLD = (
    holds.update()
    .where(
        (holds.c.id == bindparam("at_id"))
        & (holds.c.state == "open")
        & (holds.c.floor_nano < bindparam("to_nano"))
        & (holds.c.amount_nano >= bindparam("to_nano"))
    )
    .values(floor_nano=bindparam("to_nano"))
)


def database_now(connection: Connection) -> int:
    """Microseconds since the epoch by the one clock that all processes of a database share.

    SQLite has no clock of its own: its processes are on one machine, whose clock it is.
    """
    if connection.dialect.name == "sqlite":
        return now_us()
    seconds = func.extract("epoch", func.clock_timestamp())
    return int(connection.execute(select(seconds * 1_000_000)).scalar_one())
