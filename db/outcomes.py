"""What becomes of a running job: a checkpoint, a result, or one of the failures. All of it fenced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import curves, publications
from qsweep.db.moments import wall
from qsweep.db.moves import batches, move
from qsweep.db.rows import Accepted, Checkpoint, Fenced, Finished, Move
from qsweep.db.rules import KEPT
from qsweep.db.states import FailureClass, State
from qsweep.db.tables import attempts, checkpoints, jobs
from qsweep.db.transaction import Transaction
from qsweep.sweeps.faults import point

NONE: Mapping[int, str] = {}
DIVERGED = "diverged"
"""What the event of a finish says of a training whose loss became infinite or no number."""

ASKED = sa.or_(jobs.c.keep_model, jobs.c.has_children)
"""Some sweep asks for the trained model, to keep it or to measure it."""
LOCKED = (
    sa.select(
        jobs.c.id,
        jobs.c.kind,
        jobs.c.home,
        jobs.c.attempt,
        jobs.c.state,
        jobs.c.agent_id,
        jobs.c.publication,
        jobs.c.progress,
        jobs.c.has_children,
        ASKED.label("asked"),
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


LOCKED_BY_ID = LOCKED.where(jobs.c.id.in_(sa.bindparam("ids", expanding=True, type_=sa.BigInteger)))
ADVANCE = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("advanced_id"))
    .values(progress=sa.bindparam("step"), epoch=sa.bindparam("at_epoch"), advanced=True, crashes=0, losses=0)
)
END_ATTEMPT = (
    attempts.update()
    .where(attempts.c.job_id == sa.bindparam("ended_id"), attempts.c.attempt == sa.bindparam("ended_attempt"))
    .values(
        ended_at=wall(),
        outcome=sa.bindparam("new_outcome"),
        failure_class=sa.bindparam("new_class"),
        error=sa.bindparam("new_error"),
        publication=sa.bindparam("new_publication"),
    )
)


def locked(transaction: Transaction, ids: Collection[int]) -> list[Any]:
    """The rows of these jobs, locked in one order for all, so that two transactions never wait for each other."""
    return [row for batch in batches(sorted(ids)) for row in transaction.run(LOCKED_BY_ID, {"ids": batch})]


def end_attempts(
    transaction: Transaction,
    rows: Sequence[Any],
    outcomes: Mapping[int, State],
    *,
    failure_class: FailureClass | None = None,
    error: str = "",
    published: Mapping[int, str] = NONE,
) -> None:
    """Writes down how the attempts of these jobs ended: `outcomes` says into which state each went."""
    ended = [
        {
            "ended_id": row.id,
            "ended_attempt": row.attempt,
            "new_outcome": outcomes[row.id].value,
            "new_class": None if failure_class is None else failure_class.value,
            "new_error": error,
            "new_publication": published.get(row.id),
        }
        for row in rows
    ]
    if ended:
        transaction.run(END_ATTEMPT, ended)


def held(transaction: Transaction, agent_id: int, given: Sequence[Fenced]) -> dict[int, Any]:
    """The rows of those jobs that this agent runs as exactly these attempts, locked."""
    asked = {one.job_id: one for one in given}
    return {row.id: row for row in locked(transaction, asked) if _runs(row, agent_id, asked[row.id])}


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
    transaction.run(ADVANCE, [{"advanced_id": one.job_id, "step": one.step, "at_epoch": one.epoch} for one in passed])
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
    """A result passes if the agent runs that very attempt, and if its model was kept should a sweep ask for it."""
    asked = {one.job_id: one for one in given}
    rows = locked(transaction, asked)
    mine = [row for row in rows if _runs(row, agent_id, asked[row.id])]
    lacking = frozenset(row.id for row in mine if row.asked and asked[row.id].unkept)
    passed = [row for row in mine if row.id not in lacking]
    if passed:
        _count(transaction, agent_id, passed, asked)
        point("finish.uncommitted", len(passed))
    begun = [row.id for row in passed if row.progress]
    deletable = _forget(transaction, begun, 0)
    curves.forget(transaction, begun)
    before = {row.id for row in rows if _counts_already(row, agent_id, asked[row.id])}
    return Accepted(jobs=frozenset({row.id for row in passed} | before), deletable=deletable, asked=lacking)


def _runs(row: Any, agent_id: int, one: Fenced) -> bool:
    """The fence: whether the agent runs the job as exactly this attempt."""
    return (row.state, row.attempt, row.agent_id) == (State.RUNNING, one.attempt, agent_id)


def _counts_already(row: Any, agent_id: int, one: Finished) -> bool:
    """Whether this very result was counted: the answer to our first try was lost."""
    stands = (row.state, row.attempt, row.agent_id, row.publication)
    return stands == (State.DONE, one.attempt, agent_id, one.publication)


def _count(transaction: Transaction, agent_id: int, rows: Sequence[Any], given: Mapping[int, Finished]) -> None:
    columns = ("publication", "model_file", "model_hash", "diverged")
    results = {row.id: {name: getattr(given[row.id], name) for name in columns} for row in rows}
    move(
        transaction,
        rows,
        State.DONE,
        lambda row: DIVERGED if given[row.id].diverged else "",
        values={"failure_class": None},
        each=results,
        agent_id=agent_id,
    )
    done = dict.fromkeys(results, State.DONE)
    names = {row.id: given[row.id].publication for row in rows}
    end_attempts(transaction, rows, done, published=names)
    publications.record(transaction, rows, names)
    if parents := [row.id for row in rows if row.has_children]:
        transaction.run(jobs.update().where(jobs.c.parent_id.in_(parents)).values(blocked=False))


def move_pointers(transaction: Transaction, given: Sequence[Move]) -> int:
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
