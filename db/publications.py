"""Publications by their size: of small ones some are merged into a larger one, which is merged again with its like.

The table has a row for each publication that jobs point to, written by the finish that counts it. A publication of up
to `FULL` jobs has a level, the logarithm of its jobs to the base `FAN`; as soon as there are `FAN` of one level, they
are worth a merge. So a sweep has fewer than FAN files a level and kind, beside the full ones, and each row is
rewritten once a level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from qsweep.db.tables import publications
from qsweep.db.transaction import Transaction

FAN = 16
"""So many publications of one level are merged."""
LEVELS = 3
FULL = FAN**LEVELS
"""Jobs of a publication that is merged no more."""
ASIDE = -1
"""The level of publications that can't be merged: damaged, or written by a newer version."""


def level_of(jobs: int) -> int:
    """0 with fewer than FAN jobs, 1 with fewer than FAN², …; LEVELS for a full one."""
    return sum(jobs >= FAN**level for level in range(1, LEVELS + 1))


def record(transaction: Transaction, rows: Iterable[Any], publication_of: dict[int, str]) -> None:
    """Notes that these jobs (with `id`, `kind` and `home`) point to these publications now."""
    found = list(rows)
    counts = Counter(publication_of[row.id] for row in found)
    first = {publication_of[row.id]: row for row in reversed(found)}
    if not counts:
        return
    insert = transaction.insert(publications).values(
        publication=sa.bindparam("new"), sweep=sa.bindparam("of_sweep"), kind=sa.bindparam("of_kind"),
        jobs=sa.bindparam("count"), level=sa.bindparam("of_level"),
    )  # fmt: skip
    more = {"jobs": publications.c.jobs + insert.excluded.jobs}
    values = [
        {"new": name, "of_sweep": first[name].home, "of_kind": first[name].kind, "count": count,
         "of_level": level_of(count)}
        for name, count in counts.items()
    ]  # fmt: skip
    transaction.run(insert.on_conflict_do_update(index_elements=["publication"], set_=more), values)
