"""Failures: which class an attempt ended in, and where its job goes by its budget (law 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from qsweep.db.budgets import MACHINES, ONCE, PLACES, TRIES, Record, Verdict, verdict
from qsweep.db.moments import boot, moment, wall
from qsweep.db.moves import move
from qsweep.db.outcomes import LOCKED, end_attempts, held
from qsweep.db.pausing import pause_failing_sweeps
from qsweep.db.rows import Fenced
from qsweep.db.rules import ERROR_TAIL
from qsweep.db.states import AgentState, FailureClass, State, SweepState
from qsweep.db.tables import RUNNING, agents, jobs, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction
from qsweep.db.weakness import note_tries

LEASE = sa.select(agents.c.lease).where(agents.c.id == sa.bindparam("agent")).with_for_update(key_share=True)
LOCKED_BY_AGENT = LOCKED.where(RUNNING, jobs.c.agent_id == sa.bindparam("agent"))


def fail(
    transaction: Transaction,
    agent_id: int,
    given: Sequence[Fenced],
    failure: FailureClass,
    error: str,
    slots: int | None,
    kind: str = "",
) -> frozenset[int]:
    # The agent's row first, as in taking back its lease: else the two might wait for each other.
    lease = float(transaction.run(LEASE, {"agent": agent_id}).scalar_one())
    mine = held(transaction, agent_id, given)
    if mine:
        running = sa.select(sa.func.count()).select_from(jobs).where(RUNNING, jobs.c.agent_id == agent_id)
        company = int(transaction.run(running).scalar_one())
        end(transaction, agent_id, list(mine.values()), failure, error, company, slots, lease, kind)
    return frozenset(mine)


def mark_dead(
    transaction: Transaction,
    agent_id: int,
    failure: FailureClass,
    reason: str,
    slots: int | None = None,
    kind: str = "",
) -> int:
    """Marks an agent dead and ends all that it ran, in one transaction; returns how many jobs."""
    return end_agent(transaction, agent_id, AgentState.DEAD, failure, reason, slots, kind)


def end_agent(
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
    tail = error[-ERROR_TAIL:]
    detail = f"{failure}: {_last_line(tail)}" if tail.strip() else failure.value
    verdicts = _verdicts(transaction, agent_id, rows, failure, company=company, slots=slots or company, lease=lease)
    changes = _changes(transaction, verdicts)
    gone = {"failure_class": failure.value, "agent_id": None}
    for target in State:
        going = [row for row in rows if verdicts[row.id].state is target]
        move(transaction, going, target, detail, values=gone, each=changes, agent_id=agent_id, cause=cause)
    outcomes = {one: verdict.state for one, verdict in verdicts.items()}
    end_attempts(transaction, rows, outcomes, failure_class=failure, error=tail)
    if failed := [one for one, state in outcomes.items() if state is State.FAILED]:
        pause_failing_sweeps(transaction, failed)


def _verdicts(
    transaction: Transaction,
    agent_id: int,
    rows: Sequence[Any],
    failure: FailureClass,
    *,
    company: int,
    slots: int,
    lease: float,
) -> dict[int, Verdict]:
    """Where each of these jobs goes by its budget, and by whether a sweep still wants it."""
    pasts = {row.id: _past(row) for row in rows}
    at_work = AtWork()
    if failure in TRIES + ONCE:
        at_work = look(transaction, agent_id, list(pasts.values()), places=failure in TRIES)
    given_up = _given_up(transaction, [row.id for row in rows if not row.wanted])
    found, tries = {}, []
    for row in rows:
        past = pasts[row.id]
        by = at_work.count((*past.tries_of(failure), agent_id))
        after = verdict(
            past, failure, company=company, slots=slots, lease=lease, agent=agent_id, by=by, needed=at_work.needed
        )
        if len(after.tried_by) > len(past.tries_of(failure)):
            tries.append(row.id)
        if after.state is State.QUEUED and row.id in given_up:
            after = replace(after, state=State.CANCELLED, delay=0.0)
        elif after.state is State.CANCELLED and row.wanted:  # stopped by a trial, but some sweep wants it whole
            after = replace(after, state=State.QUEUED)
        found[row.id] = after
    got_on = failure not in ONCE and any(past.advanced for past in pasts.values())
    note_tries(transaction, agent_id, tries, failure, got_on=got_on)
    return found


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """Among whom a job that fails is passed on: machines, or the places of one. `needed`: how many of them must have
    tried it without success. `whose`: to which of them an agent belongs."""

    needed: int = 1
    whose: Mapping[int, str] = field(default_factory=dict)

    def count(self, tried_by: Sequence[int]) -> int:
        """How many different ones these agents are."""
        return len({self.whose.get(agent, "") for agent in tried_by})


def look(transaction: Transaction, agent_id: int, pasts: Sequence[Record], *, places: bool) -> AtWork:
    """Who is at work, this agent included: each that has a living lease. One that has no job is between two, or waits
    for those that fail; where nothing is left it leaves. `places`: where one machine is at work, its places count."""
    works = sa.and_(agents.c.state == AgentState.ALIVE.value, agents.c.expires >= moment(), agents.c.clock == boot())
    concerned = {agent_id, *(agent for past in pasts for agent in past.tried_by)}
    statement = sa.select(agents.c.id, agents.c.host, agents.c.boot_id, agents.c.place, works.label("works"))
    rows = transaction.run(statement.where(sa.or_(works, agents.c.id.in_(concerned)))).all()
    machines = {row.id: f"{row.host} {row.boot_id}" for row in rows}
    present = [row.id for row in rows if row.works or row.id == agent_id]
    if (count := len({machines[one] for one in present})) > 1:
        return AtWork(needed=min(count, MACHINES), whose=machines)
    if not places:
        return AtWork(whose=machines)
    whose = {row.id: row.place or f"agent {row.id}" for row in rows}
    return AtWork(needed=min(len({whose[one] for one in present}), PLACES), whose=whose)


def _past(row: Any) -> Record:
    return Record(
        alone=bool(row.alone),
        slots_limit=row.slots_limit,
        crashes=row.crashes,
        losses=row.losses,
        tried_by=tuple(json.loads(row.tried_by or "[]")),
        advanced=bool(row.advanced),
    )


def _changes(transaction: Transaction, verdicts: Mapping[int, Verdict]) -> dict[int, dict[str, Any]]:
    """What becomes of the columns of each job."""
    waits = any(one.delay for one in verdicts.values())
    now = transaction.run(sa.select(moment())).scalar_one() if waits else 0.0
    return {
        job_id: {
            "alone": one.alone,
            "slots_limit": one.slots_limit,
            "crashes": one.crashes,
            "losses": one.losses,
            "tried_by": json.dumps(one.tried_by) if one.tried_by else None,
            "not_before": now + one.delay if one.delay else None,
        }
        for job_id, one in verdicts.items()
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
