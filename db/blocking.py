"""What keeps queued jobs from ever running: an ancestor that nobody works on and nobody will.

Looked up from below, level by level, so that a million jobs of a thousand parents cost a thousand rows.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qsweep.db.ancestry import upwards, with_ancestors
from qsweep.db.rows import Blocked
from qsweep.db.states import AgentState, FailureClass, Obstacle, State
from qsweep.db.tables import agents, jobs, selections, sweep_jobs
from qsweep.db.transaction import Transaction

ROWS = sa.select(
    *(jobs.c[name] for name in ("id", "identity", "state", "wanted", "blocked", "failure_class", "parent_id")),
    (agents.c.state == AgentState.AWAY.value).label("away"),
).select_from(jobs.outerjoin(agents, agents.c.id == jobs.c.agent_id))


def blocked(transaction: Transaction, sweep_id: int, selection: int | None) -> list[Blocked]:
    """For each ancestor at which queued jobs of the sweep, or of a selection, are stuck: how many, and why."""
    waiting = _waiting(transaction, sweep_id, selection)
    known = with_ancestors(transaction, waiting, ROWS)
    stuck: dict[int, int] = {}
    for parent, count in waiting.items():
        root = _root(known, parent)
        if _obstacle(known[root]) is not None:
            stuck[root] = stuck.get(root, 0) + count
    return [_blocked(known[root], count) for root, count in sorted(stuck.items())]


def _waiting(transaction: Transaction, sweep_id: int, selection: int | None) -> dict[int, int]:
    """How many queued jobs wait for each parent."""
    if selection is None:
        members = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id)
    else:
        members = sa.select(selections.c.job_id).where(selections.c.selection == selection)
    statement = (
        sa.select(jobs.c.parent_id, sa.func.count().label("jobs"))
        .where(jobs.c.parent_id.is_not(None), jobs.c.blocked, jobs.c.state == State.QUEUED.value)
        .where(jobs.c.id.in_(members))
        .group_by(jobs.c.parent_id)
    )
    return {row.parent_id: row.jobs for row in transaction.run(statement)}


def _waits(row: Any) -> bool:
    return row.state == State.QUEUED and row.blocked and row.parent_id is not None


def _root(known: dict[int, Any], job_id: int) -> int:
    """The ancestor on which everything from this job down depends."""
    return next(int(row.id) for row in upwards(known, job_id) if not _waits(row))


def _obstacle(row: Any) -> Obstacle | None:
    match State(row.state):
        case State.FAILED:
            return Obstacle.FAILED
        case State.CANCELLED:
            return Obstacle.CANCELLED
        case State.RUNNING if row.away:
            return Obstacle.AWAY
        case State.QUEUED if not row.wanted:
            return Obstacle.UNWANTED
    return None


def _blocked(row: Any, count: int) -> Blocked:
    obstacle = _obstacle(row)
    assert obstacle is not None
    failure = FailureClass(row.failure_class) if obstacle is Obstacle.FAILED and row.failure_class else None
    return Blocked(jobs=count, parent=row.identity, obstacle=obstacle, failure_class=failure)
