"""The gateway's tables. Of a key's secret they hold a hash alone."""

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
)

from trimtab.store.metadata import metadata

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
    Index(None, "expires_us"),
)

# What a project says about how its deployment answers when things fail.
policies = Table(
    "policies",
    metadata,
    Column("deployment", String(64), primary_key=True),
    Column("safe_template", Text),
    Column("deadline_s", Float, nullable=False),
)

# The statements of every request, built once.
READ_KEYS = keys.select().where(keys.c.id.in_(bindparam("ids", expanding=True)))
LOCK_METERS = (
    meters.select()
    .where(meters.c.key_id.in_(bindparam("ids", expanding=True)))
    .order_by(meters.c.key_id, meters.c.kind)
    .with_for_update()
)
WRITE_METER = meters.update().where(
    (meters.c.key_id == bindparam("at_key")) & (meters.c.kind == bindparam("at_kind"))
)
