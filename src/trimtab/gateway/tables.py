"""The gateway's tables and statements. Of a key's secret they hold a hash alone."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    case,
    exists,
    false,
    func,
    or_,
    select,
)

from trimtab.store.metadata import metadata
from trimtab.store.prepared import Put, Query

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(32), nullable=False, index=True),
    Column("secret_hash", String(64), nullable=False),
    # The secret before a rotation, which opens until its grace is over.
    Column("previous_hash", String(64)),
    Column("previous_until_us", BigInteger),
    Column("owner", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", BigInteger),
    Column("dry_run", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
)

# How full the bucket of a rate limit is, in units of `limits`.
meters = Table(
    "meters",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("level", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    CheckConstraint("level >= 0", name="not_negative"),
    CheckConstraint("kind IN ('requests', 'tokens')", name="kind"),
)

# What was answered under an Idempotency-Key: content, kept until `expires_us`.
replays = Table(
    "replays",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("answer", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    # Of a stream under way: when another gateway asked for it last, and what was said by then.
    Column("listened_us", BigInteger),
    Column("said", Text),
    Index(None, "expires_us"),
)

# What a project says about how its deployment answers when things fail.
policies = Table(
    "policies",
    metadata,
    Column("deployment", String(64), primary_key=True),
    Column("safe_template", Text),
    Column("deadline_s", Float, nullable=False),
    Column("log_prompts", Boolean, nullable=False, server_default=false()),
)

# What was uploaded for batches and what they made. The words lie in the home, in the blob.
files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("blob", String(64), nullable=False, unique=True),
    # Of what was uploaded: how many requests it holds, and for which route.
    Column("lines", Integer, nullable=False),
    Column("endpoint", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Index(None, "owner", "created_us"),
    Index(None, "expires_us"),
)

# `next_line` and `next_offset` say how far a file was begun. `claim` and `lease_until_us` are those
# of the process that writes a batch's files at its end.
batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("details", Text),
    Column("window_s", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("waits_for", Text),
    Column("total", Integer, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("next_line", Integer, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("not_before_us", BigInteger, nullable=False),
    Column("served_us", BigInteger, nullable=False),
    Column("claim", String(32)),
    Column("lease_until_us", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("cancelling_us", BigInteger),
    Column("finalizing_us", BigInteger),
    Column("ended_us", BigInteger),
    CheckConstraint("answered >= 0 AND failed >= 0 AND answered + failed <= total", name="counts"),
    CheckConstraint(
        "status IN ('in_progress', 'cancelling', 'finalizing', 'completed', 'expired',"
        " 'cancelled')",
        name="status",
    ),
    Index(None, "status"),
    Index(None, "owner", "created_us"),
)

# The lines of batches that were begun. One that is claimed belongs to whoever knows its `claim`.
lines = Table(
    "lines",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("custom_id", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("replays", Integer, nullable=False),
    Column("not_before_us", BigInteger, nullable=False),
    Column("claim", String(32)),
    Column("lease_until_us", BigInteger, nullable=False),
    Column("answer", Text),
    CheckConstraint(
        "state IN ('waiting', 'claimed', 'answered', 'dead', 'cancelled')", name="state"
    ),
    Index(None, "batch_id", "state"),
    Index(None, "claim"),
)

# The statements of every request, built once.
READ_KEYS = Query(keys.select().where(keys.c.id.in_(bindparam("ids", expanding=True))), over="ids")
LOCK_METERS = Query(
    meters.select()
    .where(meters.c.key_id.in_(bindparam("ids", expanding=True)))
    .order_by(meters.c.key_id, meters.c.kind)
    .with_for_update(),
    over="ids",
)
PUT_METERS = Put(meters, key=["key_id", "kind"])


def _lines_of(*states: str) -> Any:
    """How many lines of a batch are in these states."""
    mine = (lines.c.batch_id == batches.c.id) & lines.c.state.in_(states)
    return select(func.count()).select_from(lines).where(mine).scalar_subquery()


_DUE = (lines.c.state == "waiting") & (lines.c.not_before_us <= bindparam("now"))
# The batches that are not over, the one that waited longest first.
OPEN_BATCHES = (
    select(
        batches,
        _lines_of("waiting").label("waiting"),
        _lines_of("claimed").label("claimed"),
        case(
            (batches.c.next_line < batches.c.total, True),
            else_=exists().where((lines.c.batch_id == batches.c.id) & _DUE),
        ).label("due"),
    )
    .where(batches.c.status.in_(("in_progress", "cancelling", "finalizing")))
    .order_by(batches.c.served_us, batches.c.id)
)
LOCK_BATCH = batches.select().where(batches.c.id == bindparam("id")).with_for_update()
DUE_LINES = (
    lines.select()
    .where((lines.c.batch_id == bindparam("id")) & _DUE)
    .order_by(lines.c.number)
    .limit(bindparam("most"))
    .with_for_update()
)
LEFT_LINES = (
    lines.select()
    .where((lines.c.state == "claimed") & (lines.c.lease_until_us <= bindparam("now")))
    .order_by(lines.c.batch_id, lines.c.number)
    .limit(bindparam("most"))
)
LOCK_LINE = (
    lines.select()
    .with_only_columns(lines.c.number)
    .where(
        (lines.c.request_id == bindparam("request"))
        & (lines.c.claim == bindparam("claim"))
        & (lines.c.state == "claimed")
    )
    .with_for_update()
)
LINES_FROM = (
    lines.select()
    .where((lines.c.batch_id == bindparam("id")) & (lines.c.number >= bindparam("first")))
    .order_by(lines.c.number)
    .limit(bindparam("most"))
)
# The API keys under which more names are kept than `most`, and the newest of the names of one.
FULL_KEYS = (
    select(replays.c.key_id)
    .group_by(replays.c.key_id)
    .having(func.count() > bindparam("most"))
    .order_by(replays.c.key_id)
)
NEWEST_NAMES = (
    select(replays.c.name)
    .where(replays.c.key_id == bindparam("key"))
    .order_by(replays.c.expires_us.desc(), replays.c.name)
    .limit(bindparam("most"))
)
BATCH_STATES = select(batches.c.status, func.count()).group_by(batches.c.status)
BYTES_OF = select(func.coalesce(func.sum(files.c.bytes), 0)).where(
    files.c.owner == bindparam("owner")
)
# A batch that was not tidied yet.
HOLDS_CONTENT = exists().where(lines.c.batch_id == batches.c.id) | batches.c.details.is_not(None)
BLOBS_OF_FILES = select(files.c.blob)
USED_FILES = select(batches.c.input_file).where(
    batches.c.status.in_(("in_progress", "cancelling", "finalizing"))
)


def page(
    table: Table, owner: str, after: tuple[int, str] | None, limit: int, *, oldest_first: bool
) -> Any:
    """Rows of an owner, by time of making, beyond the row that was made at `after` (its id)."""
    made, name = table.c.created_us, table.c.id
    query = table.select().where(table.c.owner == owner)
    if after is not None:
        us, last = after
        later = or_(made > us, (made == us) & (name > last))
        earlier = or_(made < us, (made == us) & (name < last))
        query = query.where(later if oldest_first else earlier)
    order = (made, name) if oldest_first else (made.desc(), name.desc())
    return query.order_by(*order).limit(limit)
