"""Publications: how many jobs each holds, by which small ones are found and merged. The store: which incarnation of its
registry has it, and where that was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# As `db.publications.level_of` has it.
FILL = """
INSERT INTO publications (publication, sweep, kind, jobs, level)
SELECT publication, min(home), min(kind), count(*),
       CASE WHEN count(*) < 16 THEN 0 WHEN count(*) < 256 THEN 1 WHEN count(*) < 4096 THEN 2 ELSE 3 END
FROM jobs WHERE publication IS NOT NULL GROUP BY publication
"""


def upgrade() -> None:
    op.create_table(
        "publications",
        sa.Column("publication", NAME, nullable=False),
        sa.Column("sweep", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("merging", NAME),
        sa.PrimaryKeyConstraint("publication"),
    )
    op.create_index("publications_by_level", "publications", ["sweep", "kind", "level"])
    op.execute(FILL)
    op.add_column("store", sa.Column("lineage", sa.Text()))
    op.add_column("store", sa.Column("seat", sa.Text()))
