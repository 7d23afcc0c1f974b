"""What a user may do to a sweep: pause it, go on, give it up, retry its failures, invalidate its results."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.ancestry import source_of, with_ancestors
from qsweep.db.custody import note_departures
from qsweep.db.looking import counts as count_jobs
from qsweep.db.moves import batches, move
from qsweep.db.outcomes import end_attempts
from qsweep.db.rows import Cancelled, Retried
from qsweep.db.states import AgentState, FailureClass, State, SweepState
from qsweep.db.tables import agents, attempts, checkpoints, curves, events, jobs, reports, stops, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction
from qsweep.sweeps.kinds import kind_named

FRESH_BUDGET: dict[str, Any] = {
    "failure_class": None, "alone": False, "slots_limit": None, "crashes": 0, "losses": 0, "tried_by": None,
    "not_before": None,
}  # fmt: skip


ABOVE = sa.select(jobs.c.id, jobs.c.kind, jobs.c.state, jobs.c.diverged, jobs.c.model_file, jobs.c.parent_id)
LOST_MODEL = "its model is asked for, and is not there"
"""Why a training that was done is repeated."""


def pause(transaction: Transaction, sweep_id: int, reason: str) -> None:
    set_state(transaction, sweep_id, SweepState.PAUSED, reason)


def reactivate(transaction: Transaction, sweep_id: int) -> None:
    last = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
    set_state(transaction, sweep_id, SweepState.ACTIVE, "", watched_from=last)
    found = _locked(transaction, sweep_id, State.CANCELLED)
    move(transaction, found, State.QUEUED, "wanted again", values={"not_before": None})
    backing_off = sa.and_(jobs.c.state == State.QUEUED.value, jobs.c.not_before.is_not(None))
    transaction.run(jobs.update().where(_members(sweep_id), backing_off).values(not_before=None))


def cancel(transaction: Transaction, sweep_id: int) -> Cancelled:
    """A sweep of which nothing waits or runs stays as it is: jobs that are taken back into the queue later would wait
    for nobody. A tuning run may be about to draw its next job."""
    sweep, counts = _sweep(transaction, sweep_id), count_jobs(transaction, sweep_id, None)
    if counts.total and not counts.open and not _is_tuned(sweep):
        return Cancelled(queued=0, running=0, over=True)
    set_state(transaction, sweep_id, SweepState.CANCELLED, "")
    others = sa.exists().where(
        sweep_jobs.c.job_id == jobs.c.id,
        sweep_jobs.c.sweep_id == sweeps.c.id,
        sweeps.c.state != SweepState.CANCELLED.value,
    )
    away = sa.select(agents.c.id).where(agents.c.state == AgentState.AWAY.value)  # in a bundle: nobody can ask it
    running = _locked(transaction, sweep_id, State.RUNNING, sa.not_(others), jobs.c.agent_id.not_in(away))
    found = _locked(transaction, sweep_id, State.QUEUED, sa.not_(others))
    move(transaction, found, State.CANCELLED, "cancelled", values={"not_before": None})
    return Cancelled(queued=len(found), running=len(running))


def retry(
    transaction: Transaction,
    sweep_id: int,
    state: State,
    failure_class: FailureClass | None,
    gone: Collection[int],
) -> Retried:
    """Of jobs that take a file which is not there any more, the one that left it is repeated too. A cancelled sweep of
    which jobs are queued again is active again, unless it is a tuning run, whose jobs no agent claims by itself."""
    assert state in (State.FAILED, State.CANCELLED), "only an ended job can be retried"
    more = () if failure_class is None else (jobs.c.failure_class == failure_class.value,)
    parents = _without_file(transaction, sweep_id, state, more, gone)
    found = len(_locked(transaction, sweep_id, state, *more))
    if parents:
        invalidate(transaction, parents, LOST_MODEL)
    rest = _locked(transaction, sweep_id, state, *more)
    move(transaction, rest, State.QUEUED, "retried", values=FRESH_BUDGET)
    sweep = _sweep(transaction, sweep_id)
    if found and sweep.state == SweepState.CANCELLED and not _is_tuned(sweep):
        set_state(transaction, sweep_id, SweepState.ACTIVE, "")
    return Retried(queued=found, trainings=len(parents))


def _without_file(
    transaction: Transaction,
    sweep_id: int,
    state: State,
    more: Sequence[sa.ColumnElement[bool]],
    gone: Collection[int],
) -> list[int]:
    """The done jobs above these, and above those that wait, whose file they take and that have none: it was not kept,
    or it is `gone`."""
    asking = sa.or_(sa.and_(jobs.c.state == state.value, *more), jobs.c.state == State.QUEUED.value)
    rows = transaction.run(
        sa.select(jobs.c.kind, jobs.c.parent_id)
        .where(_members(sweep_id), asking, jobs.c.parent_id.is_not(None))
        .distinct()
    ).all()
    known = with_ancestors(transaction, {row.parent_id for row in rows}, ABOVE)
    sources = {
        source.id: source
        for row in rows
        for file in kind_named(row.kind).takes
        if (source := source_of(known, row.parent_id, file)) is not None
    }
    return sorted(
        one.id
        for one in sources.values()
        if one.state == State.DONE and not one.diverged and (one.model_file is None or one.id in gone)
    )


def invalidate(transaction: Transaction, ids: Sequence[int], reason: str) -> int:
    """The given done jobs, then level by level their descendants, parents first."""
    changed = set[int]()
    level = [row for row in _rows(transaction, jobs.c.id, ids) if row.state == State.DONE]
    blocked = False
    while level:
        supersede(transaction, level, reason, blocked)
        changed.update(row.id for row in level)  # one may be given, and a descendant of another
        families = [row.id for row in level if row.has_children]
        level = _rows(transaction, jobs.c.parent_id, families)
        blocked = True
    return len(changed)


def _rows(transaction: Transaction, column: sa.Column[Any], values: Sequence[int]) -> list[Any]:
    wanted = (jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.has_children, jobs.c.publication)
    return [
        row
        for batch in batches(values)
        for row in transaction.run(
            sa.select(*wanted).where(column.in_(batch)).order_by(jobs.c.id).with_for_update(key_share=True)
        )
    ]


def supersede(transaction: Transaction, rows: Sequence[Any], reason: str, blocked: bool) -> None:
    """Sends jobs back to their first step. What they had done stays in their attempts, and counts no more."""
    running = [row for row in rows if row.state == State.RUNNING]
    end_attempts(transaction, running, dict.fromkeys((row.id for row in running), State.QUEUED))
    ended = [row for row in rows if row.state not in (State.QUEUED, State.CANCELLED)]
    move(transaction, ended, State.QUEUED, f"invalidated: {reason}")
    for batch in batches(rows):
        ids = [row.id for row in batch]
        note_departures(transaction, (row.publication for row in batch if row.publication))
        transaction.run(
            jobs.update()
            .where(jobs.c.id.in_(ids))
            .values(
                blocked=blocked,
                publication=None, model_file=None, model_hash=None, diverged=False, parent_attempt=None,
                agent_id=None, progress=0, epoch=0, advanced=False, ended_at=None,
                **FRESH_BUDGET,
            )
        )  # fmt: skip
        counted = sa.and_(attempts.c.job_id.in_(ids), attempts.c.superseded.is_(None))
        transaction.run(attempts.update().where(counted).values(superseded=reason))
        for table in (checkpoints, reports, curves, stops):
            transaction.run(table.delete().where(table.c.job_id.in_(ids)))


def _sweep(transaction: Transaction, sweep_id: int) -> Any:
    return transaction.run(sa.select(sweeps.c.state, sweeps.c.spec).where(sweeps.c.id == sweep_id)).one()


def _is_tuned(sweep: Any) -> bool:
    return bool(json.loads(sweep.spec).get("tuning"))


def _members(sweep_id: int) -> sa.ColumnElement[bool]:
    return jobs.c.id.in_(sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id))


def _locked(transaction: Transaction, sweep_id: int, state: State, *more: sa.ColumnElement[bool]) -> Sequence[Any]:
    return transaction.run(
        sa.select(jobs.c.id, jobs.c.state, jobs.c.attempt)
        .where(_members(sweep_id), jobs.c.state == state.value, *more)
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    ).all()


def set_state(transaction: Transaction, sweep_id: int, state: SweepState, reason: str, **more: Any) -> None:
    """Sets the sweep's state, and anew for each of its jobs whether some active sweep wants it."""
    # All sweeps are locked: of two that share a job, each must see what becomes of the other.
    transaction.run(sa.select(sweeps.c.id).order_by(sweeps.c.id).with_for_update())
    transaction.run(sweeps.update().where(sweeps.c.id == sweep_id).values(state=state.value, reason=reason, **more))
    wanted = sa.exists().where(
        sweep_jobs.c.job_id == jobs.c.id,
        sweep_jobs.c.sweep_id == sweeps.c.id,
        sweeps.c.state == SweepState.ACTIVE.value,
    )
    transaction.run(jobs.update().where(_members(sweep_id), jobs.c.wanted != wanted).values(wanted=wanted))
