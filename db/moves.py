"""The one place where a job changes its state. The table in `db.states` is the law; every change leaves an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from qsweep.db.errors import IllegalMove
from qsweep.db.moments import wall
from qsweep.db.states import TRANSITIONS, State
from qsweep.db.tables import events, jobs
from qsweep.db.transaction import Transaction

BATCH = 5_000
"""Most ids that one statement lists: SQLite takes 32,766 bound values."""
NOTHING: Mapping[str, Any] = {}
ALIKE: Mapping[int, Mapping[str, Any]] = {}

RECORD = events.insert().inline().values(at=wall())  # inline: nobody asks for the new id


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
    attempt; a job that stops running or is cancelled has ended now, and one that is queued again has not. `detail` is
    for people, and nothing is decided by it; `cause` is the class of a failure and the kind of its error.

    Raises IllegalMove, which rolls the transaction back, if the table has no such transition, or if a job is not in
    the state that its row says.
    """
    for source, alike in _by_state(rows).items():
        if (source, target) not in TRANSITIONS:
            raise IllegalMove(source, target, [row.id for row in alike])
        changed = sum(_update(transaction, batch, source, target, values, each) for batch in batches(alike))
        if changed != len(alike):
            raise IllegalMove(source, target, [row.id for row in alike])
        started = target is State.RUNNING
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
    rows: Sequence[Any],
    source: State,
    target: State,
    values: Mapping[str, Any],
    each: Mapping[int, Mapping[str, Any]],
) -> int:
    """How many of these jobs were in the state `source`, and have been changed."""
    common = {f"new_{name}": value for name, value in values.items()}
    if not each:
        statement = _statement(source, target, tuple(values))
        return int(transaction.run(statement, common | {"ids": [row.id for row in rows]}).rowcount)
    own = [{"ids": row.id} | {f"new_{name}": value for name, value in each[row.id].items()} for row in rows]
    statement = _statement(source, target, (*values, *each[rows[0].id]), single=True)
    return int(transaction.run(statement, [common | one for one in own]).rowcount)


@lru_cache
def _statement(source: State, target: State, names: tuple[str, ...], *, single: bool = False) -> sa.Update:
    """The update of many jobs alike, or of a `single` one each time; kept, because to build it takes long."""
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    if target is State.RUNNING:
        values["attempt"] = jobs.c.attempt + 1
    elif source is State.RUNNING or target is State.CANCELLED:
        values["ended_at"] = wall()
    else:
        values["ended_at"] = None
    ids = sa.bindparam("ids", expanding=not single, type_=sa.BigInteger)
    return (
        jobs.update()
        .where(jobs.c.id == ids if single else jobs.c.id.in_(ids), jobs.c.state == source.value)
        .values(state=target.value, **values)
        .execution_options(preserve_rowcount=True)
    )


def batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in parts that one statement can list."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
