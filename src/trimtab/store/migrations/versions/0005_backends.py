"""What computes for a base.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backends",
        sa.Column("base_hash", sa.String(length=64), nullable=False),
        sa.Column("vllm_url", sa.Text(), nullable=False),
        sa.Column("vllm_env", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("base_hash", name=op.f("pk_backends")),
    )


def downgrade() -> None:
    op.drop_table("backends")
