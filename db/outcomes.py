"""What becomes of a running job: a checkpoint, a result, or one of the failures. All of it fenced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from db.clock import wall
from db.connection import Transaction
from db.journal import event, record
from db.rows import Accepted, Checkpoint, Fenced, Finished
from db.states import State
from db.tables import attempts, checkpoints, jobs

KEPT = 2
"""Checkpoints recorded per job."""

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
        jobs.c.advanced,
    )
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)


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
    .where(*FENCE)
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
    .where(*FENCE)
    .values(progress=sa.bindparam("new_step"), epoch=sa.bindparam("new_epoch"), advanced=True, crashes=0, losses=0)
)


def held(transaction: Transaction, agent_id: int, given: Sequence[Fenced]) -> dict[int, Any]:
    """The rows of those jobs that this agent runs as exactly these attempts, locked."""
    asked = {one.job_id: one.attempt for one in given}
    rows = _locked(transaction, list(asked))
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
