"""Budgets by period and level, prices by date, keys with scopes and limits, replays and policies.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ALL_SCOPES = "generate score models"


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("account", sa.String(length=160), nullable=False),
        sa.Column("period", sa.String(length=5), nullable=False),
        sa.Column("limit_nano", sa.BigInteger(), nullable=True),
        sa.Column("period_window", sa.BigInteger(), nullable=False),
        sa.Column("spent_nano", sa.BigInteger(), nullable=False),
        sa.Column("held_nano", sa.BigInteger(), nullable=False),
        sa.Column("warned", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "limit_nano IS NULL OR spent_nano + held_nano <= limit_nano",
            name=op.f("ck_budgets_within_limit"),
        ),
        sa.CheckConstraint("period IN ('day', 'month', 'total')", name=op.f("ck_budgets_period")),
        sa.CheckConstraint(
            "spent_nano >= 0 AND held_nano >= 0", name=op.f("ck_budgets_not_negative")
        ),
        sa.PrimaryKeyConstraint("account", "period", name=op.f("pk_budgets")),
    )
    op.execute(
        "INSERT INTO budgets SELECT 'key:' || key_id, 'total', limit_nano, 0, spent_nano,"
        " held_nano, 0 FROM accounts"
    )
    for table in ("holds", "spends", "prices"):
        op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
    op.drop_index(op.f("ix_holds_state_expires_us"), table_name="holds")
    op.drop_index(op.f("ix_spends_key_id_created_us"), table_name="spends")
    for table in ("holds", "spends", "prices", "accounts"):
        op.drop_table(table)
    _create_ledger()
    op.execute(
        "INSERT INTO holds SELECT id, key_id, request_id, amount_nano, floor_nano, state,"
        " settled_nano, estimated, created_us, expires_us, owner, 'key:' || key_id || '|total'"
        " FROM old_holds"
    )
    op.execute(
        "INSERT INTO spends SELECT id, key_id, request_id, amount_nano, kind, created_us"
        " FROM old_spends"
    )
    op.execute(
        "INSERT INTO prices SELECT version_hash, created_us, prompt_nano, completion_nano"
        " FROM old_prices"
    )
    for table in ("holds", "spends", "prices"):
        op.drop_table(f"old_{table}")
    op.add_column("keys", sa.Column("previous_hash", sa.String(length=64), nullable=True))
    op.add_column("keys", sa.Column("previous_until_us", sa.BigInteger(), nullable=True))
    op.add_column("keys", sa.Column("scopes", sa.Text(), nullable=False, server_default=ALL_SCOPES))
    op.add_column("keys", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.add_column("keys", sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True))
    op.add_column(
        "keys", sa.Column("dry_run", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("keys", sa.Column("expires_us", sa.BigInteger(), nullable=True))
    op.add_column("requests", sa.Column("asked_version", sa.String(length=64), nullable=True))
    op.add_column("requests", sa.Column("degraded_reason", sa.Text(), nullable=True))
    op.add_column(
        "requests", sa.Column("attempts", sa.Integer(), nullable=False, server_default="1")
    )
    _create_gateway()


def _create_ledger() -> None:
    op.create_table(
        "prices",
        sa.Column("version_hash", sa.String(length=64), nullable=False),
        sa.Column("from_us", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("prompt_nano", sa.BigInteger(), nullable=False),
        sa.Column("completion_nano", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "prompt_nano >= 0 AND completion_nano >= 0", name=op.f("ck_prices_not_negative")
        ),
        sa.PrimaryKeyConstraint("version_hash", "from_us", name=op.f("pk_prices")),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("floor_nano", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("settled_nano", sa.BigInteger(), nullable=True),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("charged", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'settled', 'expired')", name=op.f("ck_holds_state")),
        sa.CheckConstraint(
            "floor_nano >= 0 AND floor_nano <= amount_nano",
            name=op.f("ck_holds_floor_within_amount"),
        ),
        sa.CheckConstraint(
            "settled_nano >= 0 AND settled_nano <= amount_nano",
            name=op.f("ck_holds_settled_within"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sa.UniqueConstraint("request_id", name=op.f("uq_holds_request_id")),
    )
    op.create_index(
        op.f("ix_holds_state_expires_us"), "holds", ["state", "expires_us"], unique=False
    )
    op.create_table(
        "spends",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spends")),
        sa.UniqueConstraint("request_id", name=op.f("uq_spends_request_id")),
    )
    op.create_index(
        op.f("ix_spends_key_id_created_us"), "spends", ["key_id", "created_us"], unique=False
    )


def _create_gateway() -> None:
    op.create_table(
        "meters",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("level", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('requests', 'tokens')", name=op.f("ck_meters_kind")),
        sa.CheckConstraint("level >= 0", name=op.f("ck_meters_not_negative")),
        sa.PrimaryKeyConstraint("key_id", "kind", name=op.f("pk_meters")),
    )
    op.create_table(
        "replays",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "name", name=op.f("pk_replays")),
    )
    op.create_index(op.f("ix_replays_expires_us"), "replays", ["expires_us"], unique=False)
    op.create_table(
        "policies",
        sa.Column("deployment", sa.String(length=64), nullable=False),
        sa.Column("safe_template", sa.Text(), nullable=True),
        sa.Column("deadline_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("deployment", name=op.f("pk_policies")),
    )


def downgrade() -> None:
    raise NotImplementedError("spending of several budgets does not fit into one account")
