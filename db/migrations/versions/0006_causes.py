"""Causes: what kind of failure an event tells of; and which agents have tried a job in vain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("events", sa.Column("cause", sa.Text()))
    op.add_column("jobs", sa.Column("tried_by", sa.Text()))
