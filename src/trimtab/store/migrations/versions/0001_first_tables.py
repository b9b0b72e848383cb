"""The first tables: registry, ledger, journal, keys, steps and leases.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("limit_nano", sa.BigInteger(), nullable=True),
        sa.Column("spent_nano", sa.BigInteger(), nullable=False),
        sa.Column("held_nano", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "limit_nano IS NULL OR spent_nano + held_nano <= limit_nano",
            name=op.f("ck_accounts_within_limit"),
        ),
        sa.CheckConstraint(
            "spent_nano >= 0 AND held_nano >= 0", name=op.f("ck_accounts_not_negative")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "bases",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_bases")),
    )
    op.create_table(
        "datasets",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_datasets")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.String(length=32), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
    )
    op.create_index(op.f("ix_keys_prefix"), "keys", ["prefix"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "prices",
        sa.Column("version_hash", sa.String(length=64), nullable=False),
        sa.Column("prompt_nano", sa.BigInteger(), nullable=False),
        sa.Column("completion_nano", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "prompt_nano >= 0 AND completion_nano >= 0", name=op.f("ck_prices_not_negative")
        ),
        sa.PrimaryKeyConstraint("version_hash", name=op.f("pk_prices")),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=True),
        sa.Column("model_version", sa.String(length=64), nullable=True),
        sa.Column("runtime", sa.Text(), nullable=True),
        sa.Column("tier", sa.String(length=16), nullable=True),
        sa.Column("degraded", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("ttft_ms", sa.Float(), nullable=True),
        sa.Column("cost_nano", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_created_us"), "requests", ["created_us"], unique=False)
    op.create_index(
        op.f("ix_requests_deployment_created_us"),
        "requests",
        ["deployment", "created_us"],
        unique=False,
    )
    op.create_index(
        op.f("ix_requests_model_version_created_us"),
        "requests",
        ["model_version", "created_us"],
        unique=False,
    )
    op.create_table(
        "steps",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("input", sa.String(length=64), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("finished_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", "step", "input", name=op.f("pk_steps")),
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
        sa.CheckConstraint("state IN ('open', 'settled', 'expired')", name=op.f("ck_holds_state")),
        sa.CheckConstraint(
            "floor_nano >= 0 AND floor_nano <= amount_nano",
            name=op.f("ck_holds_floor_within_amount"),
        ),
        sa.CheckConstraint(
            "settled_nano >= 0 AND settled_nano <= amount_nano",
            name=op.f("ck_holds_settled_within"),
        ),
        sa.ForeignKeyConstraint(["key_id"], ["accounts.key_id"], name=op.f("fk_holds_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sa.UniqueConstraint("request_id", name=op.f("uq_holds_request_id")),
    )
    op.create_index(
        op.f("ix_holds_state_expires_us"), "holds", ["state", "expires_us"], unique=False
    )
    op.create_table(
        "records",
        sa.Column("dataset_hash", sa.String(length=64), nullable=False),
        sa.Column("record_hash", sa.String(length=64), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_hash"], ["datasets.hash"], name=op.f("fk_records_dataset_hash")
        ),
        sa.PrimaryKeyConstraint("dataset_hash", "record_hash", name=op.f("pk_records")),
    )
    op.create_index(op.f("ix_records_record_hash"), "records", ["record_hash"], unique=False)
    op.create_table(
        "spends",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["accounts.key_id"], name=op.f("fk_spends_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spends")),
        sa.UniqueConstraint("request_id", name=op.f("uq_spends_request_id")),
    )
    op.create_index(
        op.f("ix_spends_key_id_created_us"), "spends", ["key_id", "created_us"], unique=False
    )
    op.create_table(
        "versions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("base_hash", sa.String(length=64), nullable=False),
        sa.Column("adapter_artifact", sa.String(length=64), nullable=True),
        sa.Column("package_artifact", sa.String(length=64), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("dataset_hash", sa.String(length=64), nullable=True),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["base_hash"], ["bases.hash"], name=op.f("fk_versions_base_hash")),
        sa.ForeignKeyConstraint(
            ["dataset_hash"], ["datasets.hash"], name=op.f("fk_versions_dataset_hash")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_versions")),
    )
    op.create_index(op.f("ix_versions_dataset_hash"), "versions", ["dataset_hash"], unique=False)
    op.create_index(op.f("ix_versions_run_id"), "versions", ["run_id"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("blue", sa.String(length=64), nullable=True),
        sa.Column("green", sa.String(length=64), nullable=True),
        sa.Column("live_slot", sa.String(length=5), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("live_slot IN ('blue', 'green')", name=op.f("ck_deployments_live_slot")),
        sa.ForeignKeyConstraint(["blue"], ["versions.hash"], name=op.f("fk_deployments_blue")),
        sa.ForeignKeyConstraint(["green"], ["versions.hash"], name=op.f("fk_deployments_green")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_deployments")),
    )
    op.create_table(
        "gates",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("candidate", sa.String(length=64), nullable=False),
        sa.Column("incumbent", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["candidate"], ["versions.hash"], name=op.f("fk_gates_candidate")),
        sa.ForeignKeyConstraint(["incumbent"], ["versions.hash"], name=op.f("fk_gates_incumbent")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_gates")),
    )
    op.create_index(op.f("ix_gates_candidate"), "gates", ["candidate"], unique=False)
    op.create_table(
        "reports",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("version_hash", sa.String(length=64), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("items", sa.String(length=64), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("dataset_hash", sa.String(length=64), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_hash"], ["datasets.hash"], name=op.f("fk_reports_dataset_hash")
        ),
        sa.ForeignKeyConstraint(
            ["version_hash"], ["versions.hash"], name=op.f("fk_reports_version_hash")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_version_hash"), "reports", ["version_hash"], unique=False)
    op.create_table(
        "deployment_events",
        sa.Column("deployment", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("version_hash", sa.String(length=64), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment"], ["deployments.name"], name=op.f("fk_deployment_events_deployment")
        ),
        sa.ForeignKeyConstraint(
            ["previous"], ["versions.hash"], name=op.f("fk_deployment_events_previous")
        ),
        sa.ForeignKeyConstraint(
            ["version_hash"], ["versions.hash"], name=op.f("fk_deployment_events_version_hash")
        ),
        sa.PrimaryKeyConstraint("deployment", "generation", name=op.f("pk_deployment_events")),
    )
    op.create_index(
        op.f("ix_deployment_events_version_hash"),
        "deployment_events",
        ["version_hash"],
        unique=False,
    )


def downgrade() -> None:

    op.drop_index(op.f("ix_deployment_events_version_hash"), table_name="deployment_events")
    op.drop_table("deployment_events")
    op.drop_index(op.f("ix_reports_version_hash"), table_name="reports")
    op.drop_table("reports")
    op.drop_index(op.f("ix_gates_candidate"), table_name="gates")
    op.drop_table("gates")
    op.drop_table("deployments")
    op.drop_index(op.f("ix_versions_run_id"), table_name="versions")
    op.drop_index(op.f("ix_versions_dataset_hash"), table_name="versions")
    op.drop_table("versions")
    op.drop_index(op.f("ix_spends_key_id_created_us"), table_name="spends")
    op.drop_table("spends")
    op.drop_index(op.f("ix_records_record_hash"), table_name="records")
    op.drop_table("records")
    op.drop_index(op.f("ix_holds_state_expires_us"), table_name="holds")
    op.drop_table("holds")
    op.drop_table("steps")
    op.drop_index(op.f("ix_requests_model_version_created_us"), table_name="requests")
    op.drop_index(op.f("ix_requests_deployment_created_us"), table_name="requests")
    op.drop_index(op.f("ix_requests_created_us"), table_name="requests")
    op.drop_table("requests")
    op.drop_table("prices")
    op.drop_table("leases")
    op.drop_index(op.f("ix_keys_prefix"), table_name="keys")
    op.drop_table("keys")
    op.drop_table("datasets")
    op.drop_table("bases")
    op.drop_table("accounts")
