"""What a token of a prompt costs that was computed before.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # As the column's own limit: SQLite adds no other to a table that is there.
    op.execute(
        "ALTER TABLE prices ADD COLUMN cached_nano BIGINT CONSTRAINT ck_prices_cached "
        "CHECK (cached_nano >= 0 AND cached_nano <= prompt_nano)"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE prices DROP COLUMN cached_nano")
