"""Deleting a sweep: what other sweeps share stays, and all that it alone held counts no more.

Jobs, attempts and events stay as history. A job that no sweep holds any more is cancelled, without a result;
asked for again, it is computed again. Its files are garbage, save the rows that lie in one file with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.control import set_state, supersede
from qsweep.db.journal import batches, move
from qsweep.db.moments import wall
from qsweep.db.rows import Deletion
from qsweep.db.states import State, SweepState
from qsweep.db.tables import checkpoints, jobs, stops, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction
from qsweep.sweeps.chains import with_all_above
from qsweep.sweeps.errors import InputError

NOWHERE = 0
"""The home of a job whose sweep was deleted: the next sweep that registers it is its home."""
OTHERS = sweep_jobs.alias("others")
PARENTS = jobs.alias("parents")
OPEN = (State.QUEUED.value, State.RUNNING.value)


def look(transaction: Transaction, sweep_id: int) -> Deletion:
    """What would go with this sweep, and what stays."""
    rows = _alone(transaction, sweep_id)
    lost = {row.id for row in rows}
    return Deletion(
        jobs=len(lost),
        open=_open(transaction, sweep_id),
        shared=_shared(transaction, sweep_id),
        identities=tuple(row.identity for row in rows if row.state == State.DONE),
        models=tuple(row.model_file for row in rows if row.model_file),
        checkpoints=_checkpoints(transaction, sorted(lost)),
        publications=_left(transaction, rows, lost),
    )


def delete(transaction: Transaction, sweep_id: int) -> Deletion:
    """Deletes the sweep; what went. Raises InputError while it, or an agent, is at work on its jobs."""
    transaction.lock_registration()
    sweep = transaction.run(sa.select(sweeps).where(sweeps.c.id == sweep_id)).one()
    title = f"{sweep.name}@{sweep.label}"
    found = look(transaction, sweep_id)
    if sweep.state == SweepState.DELETED:
        return found
    rows = _alone(transaction, sweep_id)
    check(transaction, sweep_id)
    set_state(transaction, sweep_id, SweepState.DELETED, "")
    supersede(transaction, rows, f"{title} was deleted", blocked=False)
    _give_up(transaction, rows, f"{title} was deleted")
    transaction.run(sweep_jobs.delete().where(sweep_jobs.c.sweep_id == sweep_id))
    transaction.run(stops.delete().where(stops.c.sweep_id == sweep_id))
    transaction.run(
        sweeps.update()
        .where(sweeps.c.id == sweep_id)
        .values(label=f"{sweep.label}~{sweep_id}")  # which no command takes: the name is free
    )
    return found


def check(transaction: Transaction, sweep_id: int) -> None:
    """Raises InputError while the sweep is at work, or an agent is on what it alone holds."""
    sweep = transaction.run(sa.select(sweeps).where(sweeps.c.id == sweep_id)).one()
    title, count = f"{sweep.name}@{sweep.label}", _open(transaction, sweep_id)
    if count and sweep.state not in (SweepState.CANCELLED, SweepState.DELETED):
        raise InputError(
            f"{count} of its jobs wait or run", place=title, allowed=f"cancel it first: qsweep cancel {title}"
        )
    running = sum(row.state == State.RUNNING for row in _alone(transaction, sweep_id))
    if running:
        raise InputError(
            f"{running} of its jobs still run: their agents were asked to stop, or a bundle holds them",
            place=title,
            allowed="wait until they have stopped (qsweep status), or take the bundle back with qsweep recall",
        )


def _give_up(transaction: Transaction, rows: Sequence[Any], why: str) -> None:
    queued = [row for row in rows if row.state != State.CANCELLED]
    move(transaction, queued, State.QUEUED, State.CANCELLED, why, {"ended_at": wall()})
    blocked = sa.exists().where(PARENTS.c.id == jobs.c.parent_id, PARENTS.c.state != State.DONE.value)
    values = {"home": NOWHERE, "wanted": False, "keep_model": False, "blocked": blocked, "ended_at": wall()}
    for batch in batches([row.id for row in rows]):
        transaction.run(jobs.update().where(jobs.c.id.in_(batch)).values(values))


def _members(sweep_id: int) -> sa.Select[Any]:
    columns = (jobs.c.id, jobs.c.identity, jobs.c.state, jobs.c.attempt, jobs.c.has_children)
    more = (jobs.c.publication, jobs.c.model_file)
    return (
        sa.select(*columns, *more)
        .join(sweep_jobs, sweep_jobs.c.job_id == jobs.c.id)
        .where(sweep_jobs.c.sweep_id == sweep_id)
        .order_by(jobs.c.id)
    )


def _held_by_others(job: sa.ColumnElement[int], sweep_id: int) -> sa.ColumnElement[bool]:
    return sa.exists().where(OTHERS.c.job_id == job, OTHERS.c.sweep_id != sweep_id)


def _alone(transaction: Transaction, sweep_id: int) -> list[Any]:
    """Its jobs that no other sweep holds, nor anything that stands on them."""
    mine = sa.not_(_held_by_others(jobs.c.id, sweep_id))
    rows = list(transaction.run(_members(sweep_id).where(mine)).all())
    needed = _needed(transaction, sweep_id, [row.id for row in rows if row.has_children])
    return [row for row in rows if row.id not in needed]


def _needed(transaction: Transaction, sweep_id: int, ids: Sequence[int]) -> set[int]:
    """Those of these jobs below which another sweep holds one, and what is between them."""
    held = _held_by_others(jobs.c.id, sweep_id)
    below = sa.select(jobs.c.id, jobs.c.parent_id, jobs.c.has_children, held.label("held"))
    above: dict[int, int | None] = {}
    ends: list[int] = []
    level = list(ids)
    while level:
        asked = (jobs.c.parent_id.in_(batch) for batch in batches(level))
        rows = [row for one in asked for row in transaction.run(below.where(one, sa.or_(held, jobs.c.has_children)))]
        above |= {row.id: row.parent_id for row in rows}
        ends += [row.parent_id for row in rows if row.held]
        level = [row.id for row in rows if row.has_children]
    return with_all_above(ends, above)


def _open(transaction: Transaction, sweep_id: int) -> int:
    members = _members(sweep_id).where(jobs.c.state.in_(OPEN)).subquery()
    return int(transaction.run(sa.select(sa.func.count()).select_from(members)).scalar_one())


def _shared(transaction: Transaction, sweep_id: int) -> dict[str, int]:
    """The other sweeps that hold some of its jobs, and how many each."""
    statement = (
        sa.select(sweeps.c.name, sweeps.c.label, sa.func.count().label("jobs"))
        .join(OTHERS, OTHERS.c.sweep_id == sweeps.c.id)
        .join(sweep_jobs, sweep_jobs.c.job_id == OTHERS.c.job_id)
        .where(sweep_jobs.c.sweep_id == sweep_id, OTHERS.c.sweep_id != sweep_id)
        .group_by(sweeps.c.id, sweeps.c.name, sweeps.c.label)
        .order_by(sweeps.c.id)
    )
    return {f"{row.name}@{row.label}": row.jobs for row in transaction.run(statement)}


def _checkpoints(transaction: Transaction, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        file
        for batch in batches(ids)
        for file in transaction.run(sa.select(checkpoints.c.file).where(checkpoints.c.job_id.in_(batch))).scalars()
    )


def _left(transaction: Transaction, rows: Sequence[Any], lost: set[int]) -> tuple[str, ...]:
    """The publications that nothing else points to."""
    names = sorted({row.publication for row in rows if row.publication})
    kept: set[str] = set()
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        statement = sa.select(jobs.c.id, jobs.c.publication).where(jobs.c.publication.in_(part))
        kept |= {row.publication for row in transaction.run(statement) if row.id not in lost}
    return tuple(name for name in names if name not in kept)
