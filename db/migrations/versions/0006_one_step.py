"""Files: who writes a publication, when pointers left one, by what the results store is known again. Curves: the epochs
that a running training has done. Sweeps: when one was launched as written, which is what its bare name means. Causes:
what kind of failure an event tells of, and which agents have tried a job in vain. Agents: in whose place one works, and
what it tried in vain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "writings",
        sa.Column("publication", NAME, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("clock", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("publication"),
    )
    op.create_table(
        "departures",
        sa.Column("publication", NAME, nullable=False),
        sa.Column("left_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("publication"),
    )
    op.create_table(
        "store",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "curves",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epochs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
        sqlite_with_rowid=False,
    )
    op.add_column("sweeps", sa.Column("written_at", sa.Double(), nullable=True))
    op.add_column("events", sa.Column("cause", sa.Text()))
    op.add_column("jobs", sa.Column("tried_by", sa.Text()))
    op.add_column("agents", sa.Column("place", sa.Text()))
    op.add_column("agents", sa.Column("tries", sa.Text()))
