"""What becomes of a running job: a checkpoint, a result, or one of the failures. All of it fenced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from qsweep.db import curves
from qsweep.db.journal import RECORD, event
from qsweep.db.moments import wall
from qsweep.db.rows import Accepted, Checkpoint, Fenced, Finished, Move
from qsweep.db.states import State
from qsweep.db.tables import attempts, checkpoints, jobs
from qsweep.db.transaction import Transaction
from qsweep.sweeps.faults import point

KEPT = 2
"""Checkpoints recorded per job."""
DIVERGED = "diverged"
"""What the event of a finish says of a training whose loss became infinite or no number."""

ASKED = sa.or_(jobs.c.keep_model, jobs.c.has_children)
"""Some sweep asks for the trained model, to keep it or to measure it."""
FENCE = (
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
        jobs.c.tried_by,
        jobs.c.advanced,
    )
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)


@cache
def _locked_by_id(count: int) -> sa.Select[Any]:
    """LOCKED for `count` ids, bound as id0, id1, …"""
    return LOCKED.where(jobs.c.id.in_([sa.bindparam(f"id{index}", type_=sa.BigInteger) for index in range(count)]))


def locked(transaction: Transaction, ids: Sequence[int]) -> list[Any]:
    if not ids:
        return []
    return transaction.quick(_locked_by_id(len(ids)), {f"id{index}": one for index, one in enumerate(sorted(ids))})


FINISH = (
    jobs.update()
    .where(*FENCE, jobs.c.agent_id == sa.bindparam("agent"))
    .where(sa.or_(sa.not_(sa.bindparam("new_unkept", type_=sa.Boolean)), sa.not_(ASKED)))
    .values(
        state=State.DONE.value,
        publication=sa.bindparam("new_publication"),
        model_file=sa.bindparam("new_model_file"),
        model_hash=sa.bindparam("new_model_hash"),
        diverged=sa.bindparam("new_diverged"),
        failure_class=None,
        ended_at=wall(),
    )
    .returning(jobs.c.id, jobs.c.attempt, jobs.c.progress, jobs.c.has_children, jobs.c.diverged)
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
    .where(*FENCE)
    .values(progress=sa.bindparam("new_step"), epoch=sa.bindparam("new_epoch"), advanced=True, crashes=0, losses=0)
)


def held(transaction: Transaction, agent_id: int, given: Sequence[Fenced]) -> dict[int, Any]:
    """The rows of those jobs that this agent runs as exactly these attempts, locked."""
    asked = {one.job_id: one.attempt for one in given}
    rows = locked(transaction, list(asked))
    return {
        row.id: row
        for row in rows
        if row.state == State.RUNNING and row.attempt == asked[row.id] and row.agent_id == agent_id
    }


def resumed(transaction: Transaction, agent_id: int, claim: Fenced, step: int) -> None:
    if held(transaction, agent_id, [claim]):
        transaction.run(
            attempts.update()
            .where(attempts.c.job_id == claim.job_id, attempts.c.attempt == claim.attempt)
            .values(resumed_from=step)
        )


def checkpointed(transaction: Transaction, agent_id: int, given: Sequence[Checkpoint]) -> Accepted:
    mine = held(transaction, agent_id, given)
    passed = [one for one in given if one.job_id in mine]
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
    transaction.quick(
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
    curves.record(transaction, passed)
    ids = [one.job_id for one in passed]
    return Accepted(jobs=frozenset(ids), deletable=_forget(transaction, ids, KEPT))


def _forget(transaction: Transaction, ids: Sequence[int], kept: int) -> tuple[str, ...]:
    """Drops all but the newest `kept` checkpoints of each job; returns the files that nobody needs now."""
    if not ids:
        return ()
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
    passed: dict[int, Any] = {}
    refused = []
    ordered = sorted(given, key=lambda one: one.job_id)
    for one in ordered:
        if rows := transaction.quick(FINISH, _result(one) | {"agent": agent_id}):
            passed[one.job_id] = rows[0]
        else:
            refused.append(one)
    counted = [_result(one) for one in given if one.job_id in passed]
    if counted:
        _record(transaction, agent_id, counted, list(passed.values()))
        point("finish.uncommitted", len(counted))
    begun = [row.id for row in passed.values() if row.progress]
    deletable = _forget(transaction, begun, 0)
    curves.forget(transaction, begun)
    return Accepted(
        jobs=frozenset(passed) | _counted_before(transaction, agent_id, refused),
        deletable=deletable,
        asked=frozenset(held(transaction, agent_id, [one for one in refused if one.unkept])),
    )


def _result(one: Finished) -> dict[str, Any]:
    return {
        "fenced_id": one.job_id,
        "fenced_attempt": one.attempt,
        "new_publication": one.publication,
        "new_model_file": one.model_file,
        "new_model_hash": one.model_hash,
        "new_diverged": one.diverged,
        "new_unkept": one.unkept,
        "new_outcome": State.DONE.value,
        "new_class": None,
        "new_error": "",
    }


def _record(transaction: Transaction, agent_id: int, counted: Sequence[dict[str, Any]], rows: Sequence[Any]) -> None:
    transaction.quick(END_ATTEMPT, counted)
    transaction.quick(
        RECORD, [event(row, State.RUNNING, State.DONE, DIVERGED if row.diverged else "", agent_id) for row in rows]
    )
    if parents := [row.id for row in rows if row.has_children]:
        transaction.run(jobs.update().where(jobs.c.parent_id.in_(parents)).values(blocked=False))


def _counted_before(transaction: Transaction, agent_id: int, given: Sequence[Finished]) -> frozenset[int]:
    """Those whose very result counts already: the answer to our first try was lost."""
    asked = {one.job_id: one for one in given}
    return frozenset(
        row.id
        for row in locked(transaction, list(asked))
        if (row.state, row.attempt, row.agent_id, row.publication)
        == (State.DONE, asked[row.id].attempt, agent_id, asked[row.id].publication)
    )


def move(transaction: Transaction, given: Sequence[Move]) -> int:
    """Each pointer moves only where the very result still counts that was copied."""
    statement = (
        jobs.update()
        .where(
            jobs.c.identity == sa.bindparam("moved_job"),
            jobs.c.attempt == sa.bindparam("moved_attempt"),
            jobs.c.publication == sa.bindparam("moved_source"),
            jobs.c.state == State.DONE.value,
        )
        .values(publication=sa.bindparam("moved_target"))
    )
    values = [
        {
            "moved_job": one.job,
            "moved_attempt": one.attempt,
            "moved_source": one.source,
            "moved_target": one.target,
        }
        for one in given
    ]
    answer = transaction.run(statement.execution_options(preserve_rowcount=True), values) if values else None
    point("move.uncommitted", len(values))
    return 0 if answer is None else int(answer.rowcount)
