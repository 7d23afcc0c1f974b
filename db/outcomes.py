"""What becomes of a running job: a checkpoint, a result, or one of the failures. All of it fenced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from db.budgets import Record, verdict
from db.clock import moment, wall
from db.connection import Transaction
from db.journal import event, record
from db.pausing import pause_failing_sweeps
from db.rows import Accepted, Checkpoint, Fenced, Finished
from db.states import AgentState, FailureClass, State, SweepState
from db.tables import RUNNING, agents, attempts, checkpoints, jobs, sweep_jobs, sweeps

ERROR_TAIL = 8_000
"""Characters of an error that an attempt keeps: its end, where the cause stands."""
KEPT = 2
"""Checkpoints recorded per job."""

_FENCE = (
    jobs.c.id == sa.bindparam("fenced_id"),
    jobs.c.attempt == sa.bindparam("fenced_attempt"),
    jobs.c.state == State.RUNNING.value,
)
LOCKED = (
    sa.select(
        jobs.c.id,
        jobs.c.attempt,
        jobs.c.state,
        jobs.c.agent_id,
        jobs.c.publication,
        jobs.c.progress,
        jobs.c.has_children,
        jobs.c.wanted,
        jobs.c.alone,
        jobs.c.slots_limit,
        jobs.c.crashes,
        jobs.c.losses,
        jobs.c.advanced,
    )
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)
LOCKED_BY_AGENT = LOCKED.where(RUNNING, jobs.c.agent_id == sa.bindparam("agent"))


@cache
def _locked_by_id(count: int) -> sa.Select[Any]:
    """LOCKED for `count` ids, bound as id0, id1, …"""
    return LOCKED.where(jobs.c.id.in_([sa.bindparam(f"id{index}", type_=sa.BigInteger) for index in range(count)]))


def _locked(transaction: Transaction, ids: Sequence[int]) -> list[Any]:
    if not ids:
        return []
    return transaction.quick(_locked_by_id(len(ids)), {f"id{index}": one for index, one in enumerate(sorted(ids))})


FINISH = (
    jobs.update()
    .where(*_FENCE)
    .values(
        state=State.DONE.value,
        publication=sa.bindparam("new_publication"),
        model_file=sa.bindparam("new_model_file"),
        model_hash=sa.bindparam("new_model_hash"),
        diverged=sa.bindparam("new_diverged"),
        failure_class=None,
        ended_at=wall(),
    )
)
END_ATTEMPT = (
    attempts.update()
    .where(attempts.c.job_id == sa.bindparam("fenced_id"), attempts.c.attempt == sa.bindparam("fenced_attempt"))
    .values(
        ended_at=wall(),
        outcome=sa.bindparam("new_outcome"),
        failure_class=sa.bindparam("new_class"),
        error=sa.bindparam("new_error"),
        publication=sa.bindparam("new_publication"),
    )
)
ADVANCE = (
    jobs.update()
    .where(*_FENCE)
    .values(progress=sa.bindparam("new_step"), epoch=sa.bindparam("new_epoch"), advanced=True, crashes=0, losses=0)
)
END = (
    jobs.update()
    .where(*_FENCE)
    .values(
        state=sa.bindparam("new_state"),
        failure_class=sa.bindparam("new_class"),
        alone=sa.bindparam("new_alone"),
        slots_limit=sa.bindparam("new_limit"),
        crashes=sa.bindparam("new_crashes"),
        losses=sa.bindparam("new_losses"),
        not_before=sa.case(
            (sa.bindparam("delay", type_=sa.Double) > 0, moment() + sa.bindparam("delay", type_=sa.Double)),
            else_=None,
        ),
        agent_id=None,
        ended_at=wall(),
    )
)


def _held(transaction: Transaction, agent_id: int, given: Sequence[Fenced]) -> dict[int, Any]:
    """The rows of those jobs that this agent runs as exactly these attempts, locked."""
    asked = {one.job_id: one.attempt for one in given}
    rows = _locked(transaction, list(asked))
    return {
        row.id: row
        for row in rows
        if row.state == State.RUNNING and row.attempt == asked[row.id] and row.agent_id == agent_id
    }


def resumed(transaction: Transaction, agent_id: int, claim: Fenced, step: int) -> None:
    if _held(transaction, agent_id, [claim]):
        transaction.run(
            attempts.update()
            .where(attempts.c.job_id == claim.job_id, attempts.c.attempt == claim.attempt)
            .values(resumed_from=step)
        )


def checkpointed(transaction: Transaction, agent_id: int, given: Sequence[Checkpoint]) -> Accepted:
    held = _held(transaction, agent_id, given)
    passed = [one for one in given if one.job_id in held]
    if not passed:
        return Accepted(jobs=frozenset())
    rows = [
        {
            "job_id": one.job_id,
            "attempt": one.attempt,
            "step": one.step,
            "epoch": one.epoch,
            "file": one.file,
            "checksum": one.checksum,
        }
        for one in passed
    ]
    transaction.run(transaction.insert(checkpoints).on_conflict_do_nothing(), rows)
    transaction.quick_many(
        ADVANCE,
        [
            {
                "fenced_id": one.job_id,
                "fenced_attempt": one.attempt,
                "new_step": one.step,
                "new_epoch": one.epoch,
            }
            for one in passed
        ],
    )
    ids = [one.job_id for one in passed]
    return Accepted(jobs=frozenset(ids), deletable=_forget(transaction, ids, KEPT))


def _forget(transaction: Transaction, ids: Sequence[int], kept: int) -> tuple[str, ...]:
    """Drops all but the newest `kept` checkpoints of each job; returns the files that nobody needs now."""
    rows = transaction.run(
        sa.select(checkpoints.c.id, checkpoints.c.job_id, checkpoints.c.file)
        .where(checkpoints.c.job_id.in_(ids))
        .order_by(checkpoints.c.id.desc())
    ).all()
    newest: dict[int, int] = {}
    needed, old = set(), []
    for row in rows:
        newest[row.job_id] = newest.get(row.job_id, 0) + 1
        if newest[row.job_id] > kept:
            old.append(row)
        else:
            needed.add(row.file)
    if old:
        transaction.run(checkpoints.delete().where(checkpoints.c.id.in_([row.id for row in old])))
    return tuple(dict.fromkeys(row.file for row in old if row.file not in needed))


def finish(transaction: Transaction, agent_id: int, given: Sequence[Finished]) -> Accepted:
    asked = {one.job_id: one for one in given}
    rows = _locked(transaction, list(asked))
    passed, before = [], set()
    for row in rows:
        one = asked[row.id]
        if row.attempt != one.attempt or row.agent_id != agent_id:
            continue
        if row.state == State.RUNNING:
            passed.append(row)
        elif row.state == State.DONE and row.publication == one.publication:
            # Committed already: the answer to our first try was lost.
            before.add(row.id)
    if passed:
        _commit(transaction, agent_id, passed, asked)
    with_files = [row.id for row in passed if row.progress]
    deletable = _forget(transaction, with_files, 0) if with_files else ()
    return Accepted(jobs=frozenset({row.id for row in passed} | before), deletable=deletable)


def _commit(transaction: Transaction, agent_id: int, rows: Sequence[Any], asked: dict[int, Finished]) -> None:
    values = [
        {
            "fenced_id": row.id,
            "fenced_attempt": row.attempt,
            "new_publication": asked[row.id].publication,
            "new_model_file": asked[row.id].model_file,
            "new_model_hash": asked[row.id].model_hash,
            "new_diverged": asked[row.id].diverged,
            "new_outcome": State.DONE.value,
            "new_class": None,
            "new_error": "",
        }
        for row in rows
    ]
    transaction.quick_many(FINISH, values)
    transaction.quick_many(END_ATTEMPT, values)
    record(transaction, [
        event(row, State.RUNNING, State.DONE, "diverged" if asked[row.id].diverged else "", agent_id)
        for row in rows
    ])  # fmt: skip
    if parents := [row.id for row in rows if row.has_children]:
        transaction.run(jobs.update().where(jobs.c.parent_id.in_(parents)).values(blocked=False))


def fail(
    transaction: Transaction,
    agent_id: int,
    given: Sequence[Fenced],
    failure: FailureClass,
    error: str,
    slots: int | None,
) -> frozenset[int]:
    held = _held(transaction, agent_id, given)
    if held:
        running = sa.select(sa.func.count()).select_from(jobs).where(RUNNING, jobs.c.agent_id == agent_id)
        company = int(transaction.run(running).scalar_one())
        lease = float(transaction.run(sa.select(agents.c.lease).where(agents.c.id == agent_id)).scalar_one())
        end(transaction, agent_id, list(held.values()), failure, error, company, slots, lease)
    return frozenset(held)


def bury(transaction: Transaction, agent_id: int, failure: FailureClass, reason: str, slots: int | None = None) -> int:
    """Marks an agent dead and ends all that it ran, in one transaction; returns how many jobs."""
    return depart(transaction, agent_id, AgentState.DEAD, failure, reason, slots)


def depart(
    transaction: Transaction,
    agent_id: int,
    state: AgentState,
    failure: FailureClass,
    reason: str,
    slots: int | None = None,
) -> int:
    left = transaction.run(
        agents.update()
        .where(agents.c.id == agent_id, agents.c.state == AgentState.ALIVE.value)
        .values(state=state.value, reason=reason[-ERROR_TAIL:], ended_at=wall())
        .returning(agents.c.lease)
    ).first()
    if left is None:
        return 0
    rows = transaction.run(LOCKED_BY_AGENT, {"agent": agent_id}).all()
    if rows:
        end(transaction, agent_id, rows, failure, reason, len(rows), slots, float(left.lease))
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
) -> None:
    """Ends the attempts of these locked rows, and sends each job where its budget says."""
    given_up = _given_up(transaction, [row.id for row in rows if not row.wanted])
    tail = error[-ERROR_TAIL:]
    detail = f"{failure}: {_last_line(tail)}" if tail.strip() else failure.value
    values, journal, failed = [], [], []
    for row in rows:
        past = Record(
            alone=bool(row.alone),
            slots_limit=row.slots_limit,
            crashes=row.crashes,
            losses=row.losses,
            advanced=bool(row.advanced),
        )
        next_one = verdict(past, failure, company=company, slots=slots or company, lease=lease)
        state = next_one.state
        if state == State.QUEUED and row.id in given_up:
            state = State.CANCELLED
        if state == State.FAILED:
            failed.append(row.id)
        values.append(
            {
                "fenced_id": row.id,
                "fenced_attempt": row.attempt,
                "new_state": state.value,
                "new_outcome": state.value,
                "new_class": failure.value,
                "new_error": tail,
                "new_publication": None,
                "new_alone": next_one.alone,
                "new_limit": next_one.slots_limit,
                "new_crashes": next_one.crashes,
                "new_losses": next_one.losses,
                "delay": next_one.delay if state == State.QUEUED else 0.0,
            }
        )
        journal.append(event(row, State.RUNNING, state, detail, agent_id))
    transaction.quick_many(END, values)
    transaction.quick_many(END_ATTEMPT, values)
    record(transaction, journal)
    if failed:
        pause_failing_sweeps(transaction, failed)


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
