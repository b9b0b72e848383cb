"""What was asked and answered, where a project wants it kept.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "words",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("cut", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_words")),
    )
    op.create_index(op.f("ix_words_owner"), "words", ["owner"])
    op.create_index(op.f("ix_words_created_us"), "words", ["created_us"])
    op.create_index(op.f("ix_words_expires_us"), "words", ["expires_us"])
    op.add_column(
        "policies",
        sa.Column("log_prompts", sa.Boolean(), nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    op.drop_column("policies", "log_prompts")
    op.drop_table("words")
