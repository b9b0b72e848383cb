"""In which numbers the built-in engine computes a base.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("quantisation", sa.Text(), nullable=False, server_default="none")
    op.add_column("backends", column)


def downgrade() -> None:
    with op.batch_alter_table("backends") as table:
        table.drop_column("quantisation")
