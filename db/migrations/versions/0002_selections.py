"""Selections: the jobs that the agents of one launch may claim."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "selections",
        sa.Column("selection", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("selection", "job_id"),
        sqlite_with_rowid=False,
    )
