"""Loads: what agents used over time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "loads",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("processor", sa.Double(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Double(), nullable=True),
        sa.Column("gpu_memory", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id", "at"),
        sqlite_with_rowid=False,
    )
