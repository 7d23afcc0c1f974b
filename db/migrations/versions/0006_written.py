"""When a sweep was launched as written, without changes and under no other name: that is what its bare name means."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("written_at", sa.Double(), nullable=True))
