"""Looking at a sweep again and again (law 5): each read is bounded, or one scan of an index or of the sweep."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qsweep.db.rows import Activity, Change, Done
from qsweep.db.states import State
from qsweep.db.tables import events, jobs, sweep_jobs
from qsweep.db.transaction import Transaction

NEWEST = 20_000
"""How many of the registry's newest events are searched for those of one sweep."""


def work(transaction: Transaction, sweep_id: int) -> dict[State, float]:
    """The estimated operations of the sweep's jobs in each state."""
    columns = (jobs.c.state, sa.func.sum(jobs.c.cost).label("cost"))
    at_home = sa.select(*columns).where(jobs.c.home == sweep_id).group_by(jobs.c.state)
    shared = (
        sa.select(*columns)
        .join(sweep_jobs, sweep_jobs.c.job_id == jobs.c.id)
        .where(sweep_jobs.c.sweep_id == sweep_id, sweep_jobs.c.shared == sa.true())
        .group_by(jobs.c.state)
    )
    found = dict.fromkeys(State, 0.0)
    for statement in (at_home, shared):
        for row in transaction.run(statement):
            found[State(row.state)] += float(row.cost)
    return found


def changes(transaction: Transaction, sweep_id: int, *, since: int, limit: int) -> list[Change]:
    """Up to `limit` events of the sweep after the event `since`, the oldest first."""
    statement = _changes(sweep_id).where(events.c.id > since).order_by(events.c.id).limit(limit)
    return [_change(row) for row in transaction.run(statement)]


def recent_changes(transaction: Transaction, sweep_id: int, limit: int) -> list[Change]:
    """Up to `limit` of the sweep's newest events, the newest first, among the registry's NEWEST ones."""
    newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
    statement = _changes(sweep_id).where(events.c.id > newest - NEWEST).order_by(events.c.id.desc()).limit(limit)
    return [_change(row) for row in transaction.run(statement)]


def done_after(transaction: Transaction, sweep_id: int, job_id: int, limit: int) -> list[Done]:
    """Up to `limit` of the sweep's done jobs beyond `job_id`, in order of registration."""
    member = sa.exists().where(sweep_jobs.c.job_id == jobs.c.id, sweep_jobs.c.sweep_id == sweep_id)
    statement = (
        sa.select(jobs.c.id, jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
        .where(jobs.c.id > job_id, jobs.c.state == State.DONE.value, member)
        .order_by(jobs.c.id)
        .limit(limit)
    )
    return [Done(**row._mapping) for row in transaction.run(statement)]


def activity(transaction: Transaction, sweep_id: int, *, since: int) -> Activity:
    """What became of the sweep's jobs after the event `since`, by one scan of the events since."""
    newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
    member = sa.exists().where(sweep_jobs.c.job_id == events.c.job_id, sweep_jobs.c.sweep_id == sweep_id)
    statement = (
        sa.select(events.c.agent_id, sa.func.count().label("changes"))
        .where(events.c.id > since, events.c.id <= newest, member)
        .group_by(events.c.agent_id)
    )
    rows = transaction.run(statement).all()
    return Activity(
        newest=int(newest),
        events=sum(row.changes for row in rows),
        agents=frozenset(row.agent_id for row in rows if row.agent_id is not None),
    )


def _changes(sweep_id: int) -> sa.Select[Any]:
    of_job = (jobs.c.identity, jobs.c.kind, jobs.c.cohort_key, jobs.c.cost, jobs.c.publication)
    member = sa.exists().where(sweep_jobs.c.job_id == events.c.job_id, sweep_jobs.c.sweep_id == sweep_id)
    named = ("id", "job_id", "at", "source", "target", "attempt", "detail")
    columns = [events.c[name] for name in named]
    return sa.select(*columns, *of_job).join(jobs, jobs.c.id == events.c.job_id).where(member)


def _change(row: Any) -> Change:
    values = dict(row._mapping)
    return Change(**(values | {"source": State(row.source), "target": State(row.target)}))
