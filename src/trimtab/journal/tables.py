"""The journal's tables."""

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
    func,
    select,
)

from trimtab.store.metadata import metadata
from trimtab.store.prepared import Put

requests = Table(
    "requests",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("trace_id", Text, nullable=False),
    Column("session_id", Text),
    Column("user_id", Text),
    Column("key_id", String(64)),
    Column("route", Text, nullable=False),
    Column("deployment", Text),
    # Who should have answered, and who did.
    Column("asked_version", String(64)),
    Column("model_version", String(64)),
    Column("runtime", Text),
    Column("tier", String(16)),
    Column("degraded", Boolean, nullable=False),
    Column("degraded_reason", Text),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("finish_reason", String(16)),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("cost_nano", BigInteger, nullable=False),
    Column("error_code", Text),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "created_us"),
    Index(None, "deployment", "created_us"),
    Index(None, "model_version", "created_us"),
)

# The statement of every request, put into words once.
RECORD = Put(requests)
COUNT_ANSWERS = (
    select(func.count())
    .select_from(requests)
    .where((requests.c.model_version == bindparam("version")) & (requests.c.status < 400))
)
SUM_COST = select(func.coalesce(func.sum(requests.c.cost_nano), 0)).where(
    requests.c.deployment == bindparam("deployment")
)
COUNT_CHARGED = (
    select(func.count())
    .select_from(requests)
    .where(requests.c.model_version == bindparam("version"))
    .where((requests.c.created_us >= bindparam("since_us")) & (requests.c.prompt_tokens > 0))
)

# What was asked and answered, where a project wants it kept: content.
words = Table(
    "words",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("cut", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Index(None, "owner"),
    Index(None, "created_us"),
    Index(None, "expires_us"),
)
WRITE_WORDS = Put(words)
# All but the newest. No database has an OFFSET without a LIMIT in common with the other.
OLD_WORDS = (
    select(words.c.request_id)
    .order_by(words.c.created_us.desc(), words.c.request_id)
    .limit(2**62)
    .offset(bindparam("most"))
)

# Work that was accepted for later and failed for good. `source` says what kind of work, `group` and
# `place` which of it (a batch and its line); under `request_id` it is billed once.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("source", String(16), nullable=False),
    Column("group", String(64), nullable=False),
    Column("place", Integer, nullable=False),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("replays", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    CheckConstraint("state IN ('dead', 'replaying')", name="state"),
    Index(None, "source", "group", "place"),
    Index(None, "expires_us"),
)

COUNT_LETTERS = select(
    dead_letters.c.source, dead_letters.c.reason, dead_letters.c.state, func.count()
).group_by(dead_letters.c.source, dead_letters.c.reason, dead_letters.c.state)
COUNT_CHOSEN = select(func.count()).select_from(dead_letters)
