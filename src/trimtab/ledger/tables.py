"""The ledger's tables. Money is in integer nano-dollars."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
)

from trimtab.store.metadata import metadata

prices = Table(
    "prices",
    metadata,
    Column("version_hash", String(64), primary_key=True),
    Column("prompt_nano", BigInteger, nullable=False),
    Column("completion_nano", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    CheckConstraint("prompt_nano >= 0 AND completion_nano >= 0", name="not_negative"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("limit_nano", BigInteger),
    Column("spent_nano", BigInteger, nullable=False),
    Column("held_nano", BigInteger, nullable=False),
    # The promise itself, kept by the database even where our code is wrong.
    CheckConstraint("spent_nano >= 0 AND held_nano >= 0", name="not_negative"),
    CheckConstraint(
        "limit_nano IS NULL OR spent_nano + held_nano <= limit_nano", name="within_limit"
    ),
)

holds = Table(
    "holds",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), ForeignKey("accounts.key_id"), nullable=False),
    Column("request_id", Text, nullable=False, unique=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("floor_nano", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("settled_nano", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    CheckConstraint("floor_nano >= 0 AND floor_nano <= amount_nano", name="floor_within_amount"),
    CheckConstraint("settled_nano >= 0 AND settled_nano <= amount_nano", name="settled_within"),
    CheckConstraint("state IN ('open', 'settled', 'expired')", name="state"),
    Index(None, "state", "expires_us"),
)

spends = Table(
    "spends",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), ForeignKey("accounts.key_id"), nullable=False),
    Column("request_id", Text, nullable=False, unique=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "key_id", "created_us"),
)
