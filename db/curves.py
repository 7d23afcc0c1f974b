"""Curves: the epochs that trainings have done which are not done themselves.

A curve is written in the transaction that records a checkpoint, holds what that checkpoint holds, and goes when the
job's result is counted. So it costs no transaction of its own, and a resume goes on from exactly these epochs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.journal import batches
from qsweep.db.rows import Checkpoint, Curve
from qsweep.db.states import State
from qsweep.db.tables import curves, jobs, sweep_jobs
from qsweep.db.transaction import Transaction


def record(transaction: Transaction, given: Sequence[Checkpoint]) -> None:
    """Keep the curves that came with these checkpoints, whose jobs passed the fence, in place of older ones."""
    rows = [
        {"job_id": one.job_id, "attempt": one.attempt, "epochs": json.dumps(one.curve, separators=(",", ":"))}
        for one in given
        if one.curve
    ]
    if rows:
        insert = transaction.insert(curves)
        newer = {name: insert.excluded[name] for name in ("attempt", "epochs")}
        transaction.run(insert.on_conflict_do_update(index_elements=["job_id"], set_=newer), rows)


def forget(transaction: Transaction, ids: Sequence[int]) -> None:
    """Their published rows count now, or nothing of them does."""
    for batch in batches(ids):
        transaction.run(curves.delete().where(curves.c.job_id.in_(batch)))


def of_sweep(transaction: Transaction, sweep_id: int) -> list[Curve]:
    """The curves of the sweep's jobs that are not done, in the order of their registration."""
    member = sa.exists().where(sweep_jobs.c.job_id == jobs.c.id, sweep_jobs.c.sweep_id == sweep_id)
    statement = (
        sa.select(*_COLUMNS)
        .join_from(curves, jobs, jobs.c.id == curves.c.job_id)
        .where(jobs.c.state != State.DONE.value, member)
        .order_by(jobs.c.id)
    )
    return [_curve(row) for row in transaction.run(statement)]


def of_job(transaction: Transaction, job_id: int) -> list[Curve]:
    """The curve of one job, if it is not done and has one."""
    statement = sa.select(*_COLUMNS).join_from(curves, jobs, jobs.c.id == curves.c.job_id)
    rows = transaction.run(statement.where(jobs.c.id == job_id, jobs.c.state != State.DONE.value))
    return [_curve(row) for row in rows]


_COLUMNS = (jobs.c.identity, jobs.c.state, jobs.c.content, curves.c.attempt, curves.c.epochs)


def _curve(row: Any) -> Curve:
    return Curve(
        job=row.identity,
        state=State(row.state),
        attempt=row.attempt,
        content=row.content,
        epochs=tuple(json.loads(row.epochs)),
    )
