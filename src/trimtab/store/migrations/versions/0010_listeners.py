"""A stream that is followed through another gateway.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replays", sa.Column("listened_us", sa.BigInteger()))
    op.add_column("replays", sa.Column("said", sa.Text()))


def downgrade() -> None:
    op.drop_column("replays", "said")
    op.drop_column("replays", "listened_us")
