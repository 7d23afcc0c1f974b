"""What `qsweep calibrate` measured beside the slots and the form that it chose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("calibrations", sa.Column("seconds", sa.Double(), nullable=True))
    op.add_column("calibrations", sa.Column("peak", sa.BigInteger(), nullable=True))
