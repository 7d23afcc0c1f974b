"""The one place where a job changes its state. The table in `db.states` is the law; every change leaves an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.errors import IllegalMove
from db.moments import wall
from db.states import TRANSITIONS, State
from db.tables import events, jobs
from db.transaction import Transaction

BATCH = 5_000
"""Most ids that one statement lists: SQLite takes 32,766 bound values."""
NOTHING: Mapping[str, Any] = {}
ALIKE: Mapping[int, Mapping[str, Any]] = {}

RECORD = (
    events.insert()
    .inline()  # nobody asks for the new id
    .values(at=wall())
)


def move(
    transaction: Transaction,
    rows: Sequence[Any],
    target: State,
    detail: str | Callable[[Any], str],
    *,
    values: Mapping[str, Any] = NOTHING,
    each: Mapping[int, Mapping[str, Any]] = ALIKE,
    agent_id: int | None = None,
    cause: str | None = None,
) -> None:
    """Moves jobs to the state `target`, and writes an event for each. No other function writes `jobs.state`.

    `rows`: jobs as they stand, locked by this transaction: each with `id`, `state` and `attempt`. `values`: what else
    becomes of their columns; `each`: more of it by id, the same columns for all of them. A move to RUNNING is a new
    attempt. `detail` is for people, and nothing is decided by it; `cause` is the class of a failure and the kind of its
    error.

    Raises IllegalMove, which rolls the transaction back, if the table has no such transition, or if a job is not in
    the state that its row says.
    """
    started = target is State.RUNNING
    if started:
        values = {"attempt": jobs.c.attempt + 1, **values}
    for source, alike in _by_state(rows).items():
        if (source, target) not in TRANSITIONS:
            raise IllegalMove(source, target, [row.id for row in alike])
        changed = sum(
            _update(transaction, [row.id for row in batch], source, {"state": target.value, **values}, each)
            for batch in batches(alike)
        )
        if changed != len(alike):
            raise IllegalMove(source, target, [row.id for row in alike])
        record = [
            {
                "job_id": row.id,
                "source": source.value,
                "target": target.value,
                "agent_id": agent_id,
                "attempt": row.attempt + started,
                "detail": detail if isinstance(detail, str) else detail(row),
                "cause": cause,
            }
            for row in alike
        ]
        transaction.run(RECORD, record)


def _by_state(rows: Sequence[Any]) -> dict[State, list[Any]]:
    found: dict[State, list[Any]] = {}
    for row in rows:
        found.setdefault(State(row.state), []).append(row)
    return found


def _update(
    transaction: Transaction,
    ids: Sequence[int],
    source: State,
    values: Mapping[str, Any],
    each: Mapping[int, Mapping[str, Any]],
) -> int:
    """How many of these jobs were in the state `source`, and have been changed."""
    statement = jobs.update().where(jobs.c.state == source.value).execution_options(preserve_rowcount=True)
    if not each:
        return int(transaction.run(statement.where(jobs.c.id.in_(ids)).values(**values)).rowcount)
    own: dict[str, Any] = {name: sa.bindparam(f"own_{name}") for name in each[ids[0]]}
    statement = statement.where(jobs.c.id == sa.bindparam("moved")).values(**values, **own)
    given = [{"moved": one} | {f"own_{name}": value for name, value in each[one].items()} for one in ids]
    return int(transaction.run(statement, given).rowcount)


def batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in parts that one statement can list."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
