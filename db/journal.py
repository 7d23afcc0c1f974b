"""Every change of a job's state goes through here, together with its event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.moments import wall
from qsweep.db.states import TRANSITIONS, State
from qsweep.db.tables import events, jobs
from qsweep.db.transaction import Transaction

BATCH = 5_000
"""Most ids that one statement lists: SQLite takes 32,766 bound values."""

RECORD = (
    events.insert()
    .inline()
    .values(  # inline: nobody asks for the new id
        job_id=sa.bindparam("job_id"),
        at=wall(),
        source=sa.bindparam("source"),
        target=sa.bindparam("target"),
        agent_id=sa.bindparam("agent_id"),
        attempt=sa.bindparam("attempt"),
        detail=sa.bindparam("detail"),
        cause=sa.bindparam("cause"),
    )
)


def event(
    row: Any, source: State, target: State, detail: str, agent_id: int | None = None, *, cause: str | None = None
) -> dict[str, Any]:
    """The values of one event about `row`, which has an id and an attempt. `detail` is for people: nothing is decided
    by it. `cause`: the class of a failure and the kind of its error."""
    assert (source, target) in TRANSITIONS, f"{source} → {target} is no transition"
    return {
        "job_id": row.id,
        "source": source.value,
        "target": target.value,
        "agent_id": agent_id,
        "attempt": row.attempt,
        "detail": detail,
        "cause": cause,
    }


def record(transaction: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        transaction.quick(RECORD, rows)


def move(
    transaction: Transaction,
    rows: Sequence[Any],
    source: State,
    target: State,
    detail: str,
    values: Mapping[str, Any],
) -> None:
    """Moves locked `rows` (each has an id and an attempt) on, all in the same way."""
    for batch in batches(rows):
        transaction.run(
            jobs.update()
            .where(jobs.c.id.in_([row.id for row in batch]), jobs.c.state == source.value)
            .values(state=target.value, **values)
        )
        record(transaction, [event(row, source, target, detail) for row in batch])


def batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
