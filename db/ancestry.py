"""The chain above a job: its parent, the parent of that one, and so on, however long it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from qsweep.db.journal import batches
from qsweep.db.tables import jobs
from qsweep.db.transaction import Transaction
from qsweep.sweeps.kinds import File, kind_named


def with_ancestors(transaction: Transaction, ids: Iterable[int], statement: sa.Select[Any]) -> dict[int, Any]:
    """The rows of these jobs and of everything above them, by id: one question a level, however many jobs there are.

    `statement` selects from `jobs`, `id` and `parent_id` among the columns.
    """
    known: dict[int, Any] = {}
    level = set(ids)
    while level:
        asked = (statement.where(jobs.c.id.in_(batch)) for batch in batches(sorted(level)))
        rows = [row for one in asked for row in transaction.run(one)]
        known |= {row.id: row for row in rows}
        level = {row.parent_id for row in rows if row.parent_id is not None} - known.keys()
    return known


def upwards(known: Mapping[int, Any], job_id: int | None) -> Iterator[Any]:
    """The row of this job, and those above it, the nearest first."""
    while job_id is not None:
        yield known[job_id]
        job_id = known[job_id].parent_id


def source_of(known: Mapping[int, Any], parent_id: int | None, file: File) -> Any | None:
    """The row of the nearest job, from `parent_id` upwards, whose `kind` leaves such a file."""
    return next((row for row in upwards(known, parent_id) if kind_named(row.kind).leaves is file), None)
