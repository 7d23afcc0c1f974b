"""Curves: the epochs that a running training has done, as of its newest checkpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "curves",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epochs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
        sqlite_with_rowid=False,
    )
