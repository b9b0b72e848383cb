"""What a loop has spent beyond its project's limit.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # As the column's own limit: SQLite adds no other to a table that is there.
    op.execute(
        "ALTER TABLE budgets ADD COLUMN beyond_nano BIGINT DEFAULT '0' NOT NULL "
        "CONSTRAINT ck_budgets_beyond CHECK (beyond_nano >= 0)"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE budgets DROP COLUMN beyond_nano")
