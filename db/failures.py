"""Failures: which class an attempt ended in, and where its job goes by its budget (law 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from db.budgets import TRIES, Record, Verdict, verdict
from db.journal import RECORD, event
from db.moments import boot, moment, wall
from db.outcomes import END_ATTEMPT, FENCE, LOCKED, held
from db.pausing import pause_failing_sweeps
from db.rows import Fenced
from db.states import AgentState, FailureClass, State, SweepState
from db.tables import RUNNING, agents, jobs, sweep_jobs, sweeps
from db.transaction import Transaction

ERROR_TAIL = 8_000
"""Characters of an error that an attempt keeps: its end, where the cause stands."""
LOCKED_BY_AGENT = LOCKED.where(RUNNING, jobs.c.agent_id == sa.bindparam("agent"))
END = (
    jobs.update()
    .where(*FENCE)
    .values(
        state=sa.bindparam("new_state"),
        failure_class=sa.bindparam("new_class"),
        alone=sa.bindparam("new_alone"),
        slots_limit=sa.bindparam("new_limit"),
        crashes=sa.bindparam("new_crashes"),
        losses=sa.bindparam("new_losses"),
        tried_by=sa.bindparam("new_tried_by"),
        not_before=sa.case(
            (sa.bindparam("delay", type_=sa.Double) > 0, moment() + sa.bindparam("delay", type_=sa.Double)),
            else_=None,
        ),
        agent_id=None,
        ended_at=wall(),
    )
)


def fail(
    transaction: Transaction,
    agent_id: int,
    given: Sequence[Fenced],
    failure: FailureClass,
    error: str,
    slots: int | None,
    kind: str = "",
) -> frozenset[int]:
    mine = held(transaction, agent_id, given)
    if mine:
        running = sa.select(sa.func.count()).select_from(jobs).where(RUNNING, jobs.c.agent_id == agent_id)
        company = int(transaction.run(running).scalar_one())
        lease = float(transaction.run(sa.select(agents.c.lease).where(agents.c.id == agent_id)).scalar_one())
        end(transaction, agent_id, list(mine.values()), failure, error, company, slots, lease, kind)
    return frozenset(mine)


def bury(
    transaction: Transaction,
    agent_id: int,
    failure: FailureClass,
    reason: str,
    slots: int | None = None,
    kind: str = "",
) -> int:
    """Marks an agent dead and ends all that it ran, in one transaction; returns how many jobs."""
    return depart(transaction, agent_id, AgentState.DEAD, failure, reason, slots, kind)


def depart(
    transaction: Transaction,
    agent_id: int,
    state: AgentState,
    failure: FailureClass,
    reason: str,
    slots: int | None = None,
    kind: str = "",
    *,
    was: AgentState = AgentState.ALIVE,
) -> int:
    left = transaction.run(
        agents.update()
        .where(agents.c.id == agent_id, agents.c.state == was.value)
        .values(state=state.value, reason=reason[-ERROR_TAIL:], ended_at=wall())
        .returning(agents.c.lease)
    ).first()
    if left is None:
        return 0
    rows = transaction.run(LOCKED_BY_AGENT, {"agent": agent_id}).all()
    if rows:
        end(transaction, agent_id, rows, failure, reason, len(rows), slots, float(left.lease), kind)
    return len(rows)


def end(
    transaction: Transaction,
    agent_id: int,
    rows: Sequence[Any],
    failure: FailureClass,
    error: str,
    company: int,
    slots: int | None,
    lease: float,
    kind: str = "",
) -> None:
    """Ends the attempts of these locked rows, and sends each job where its budget says."""
    cause = f"{failure}: {kind}" if kind else failure.value
    others = failure in TRIES and others_work(transaction, agent_id)
    given_up = _given_up(transaction, [row.id for row in rows if not row.wanted])
    tail = error[-ERROR_TAIL:]
    detail = f"{failure}: {_last_line(tail)}" if tail.strip() else failure.value
    values, journal = [], []
    for row in rows:
        next_one = verdict(
            _past(row), failure, company=company, slots=slots or company, lease=lease, agent=agent_id, others=others
        )
        if next_one.state == State.QUEUED and row.id in given_up:
            next_one = replace(next_one, state=State.CANCELLED, delay=0.0)
        if next_one.state == State.CANCELLED and row.wanted:  # stopped by a trial, but some sweep wants it whole
            next_one = replace(next_one, state=State.QUEUED)
        values.append(_changes(row, next_one) | {"new_class": failure.value, "new_error": tail})
        journal.append(event(row, State.RUNNING, next_one.state, detail, agent_id, cause=cause))
    transaction.quick(END, values)
    transaction.quick(END_ATTEMPT, values)
    transaction.quick(RECORD, journal)
    if failed := [one["fenced_id"] for one in values if one["new_state"] == State.FAILED]:
        pause_failing_sweeps(transaction, failed)


def others_work(transaction: Transaction, agent_id: int) -> bool:
    """Whether another agent with a live lease is at work, who may try what this one could not do."""
    found = (
        sa.select(agents.c.id)
        .where(agents.c.state == AgentState.ALIVE.value, agents.c.id != agent_id)
        .where(agents.c.expires >= moment(), agents.c.clock == boot())
        .where(sa.exists().where(RUNNING, jobs.c.agent_id == agents.c.id))
        .limit(1)
    )
    return transaction.run(found).first() is not None


def _past(row: Any) -> Record:
    return Record(
        alone=bool(row.alone),
        slots_limit=row.slots_limit,
        crashes=row.crashes,
        losses=row.losses,
        tried_by=tuple(json.loads(row.tried_by or "[]")),
        advanced=bool(row.advanced),
    )


def _changes(row: Any, verdict: Verdict) -> dict[str, Any]:
    return {
        "fenced_id": row.id,
        "fenced_attempt": row.attempt,
        "new_state": verdict.state.value,
        "new_outcome": verdict.state.value,
        "new_publication": None,
        "new_alone": verdict.alone,
        "new_limit": verdict.slots_limit,
        "new_crashes": verdict.crashes,
        "new_losses": verdict.losses,
        "new_tried_by": json.dumps(verdict.tried_by) if verdict.tried_by else None,
        "delay": verdict.delay,
    }


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:200]


def _given_up(transaction: Transaction, ids: Sequence[int]) -> set[int]:
    """Those of the jobs whose sweeps are all cancelled."""
    if not ids:
        return set()
    held = (
        sa.select(sweep_jobs.c.job_id)
        .join(sweeps, sweeps.c.id == sweep_jobs.c.sweep_id)
        .where(sweep_jobs.c.job_id.in_(ids), sweeps.c.state != SweepState.CANCELLED.value)
    )
    return set(ids) - set(transaction.run(held).scalars())
