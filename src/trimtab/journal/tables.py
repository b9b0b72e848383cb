"""The journal's table."""

from sqlalchemy import (
    BigInteger,
    Boolean,
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

COUNT_ANSWERS = (
    select(func.count())
    .select_from(requests)
    .where((requests.c.model_version == bindparam("version")) & (requests.c.status < 400))
)
