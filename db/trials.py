"""Trials of a tuning run: an agent is told which job to run, reports each epoch, and may be stopped early.

The sweep of a tuning run is paused, so that no agent claims its jobs by itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.claims import CLAIMED, FITTING, QUEUED, RENEW, STARTED, claimed_before, start, whole
from qsweep.db.connection import Database
from qsweep.db.errors import LeaseLost
from qsweep.db.journal import batches, move
from qsweep.db.moments import wall
from qsweep.db.outcomes import held, locked
from qsweep.db.rows import Claim, Fenced
from qsweep.db.states import FailureClass, State
from qsweep.db.tables import jobs, reports, stops
from qsweep.db.transaction import Transaction

ALONE = 1
"""Slots of the engine for a job that a trial begins: the other slots of a cohort would stay vacant."""


def claim(database: Database, agent_id: int, job_id: int) -> Claim | None:
    number = random.getrandbits(62)
    return database.write(lambda t: _claim(t, agent_id, job_id, number))


def _claim(transaction: Transaction, agent_id: int, job_id: int, number: int) -> Claim | None:
    if not transaction.quick(RENEW, {"agent": agent_id}):
        raise LeaseLost(agent_id)
    if transaction.again and (claimed := claimed_before(transaction, agent_id, number)):
        return whole(transaction, claimed)[0]
    (row,) = locked(transaction, [job_id])
    if row.state == State.CANCELLED:
        move(transaction, [row], State.CANCELLED, State.QUEUED, "wanted by a trial", {"ended_at": None})
    begun = sa.or_(jobs.c.progress > 0, jobs.c.slots_limit.is_not(None))
    slots = sa.case((begun, jobs.c.slots_limit), else_=ALONE)
    free = sa.and_(jobs.c.id == job_id, QUEUED, sa.not_(jobs.c.blocked), FITTING)
    statement = jobs.update().where(free).values(STARTED | {"slots_limit": slots}).returning(*CLAIMED)
    rows = transaction.run(statement, {"agent": agent_id}).all()
    return start(transaction, agent_id, rows, number)[0] if rows else None


def end(transaction: Transaction, sweep_id: int, job_id: int, epoch: int) -> None:
    """Keeps the first decision about this trial, and cancels its job if that is queued and no active sweep wants it."""
    decision = {"sweep_id": sweep_id, "job_id": job_id, "epoch": epoch}
    transaction.run(transaction.insert(stops).on_conflict_do_nothing(), decision)
    (row,) = locked(transaction, [job_id])
    if row.state == State.QUEUED and not row.wanted:
        values = {"ended_at": wall(), "not_before": None, "failure_class": FailureClass.STOPPED.value}
        move(transaction, [row], State.QUEUED, State.CANCELLED, "stopped", values)


def ended_after(transaction: Transaction, sweep_id: int, job_id: int) -> int | None:
    decided = sa.select(stops.c.epoch).where(stops.c.sweep_id == sweep_id, stops.c.job_id == job_id)
    return transaction.run(decided).scalar()


def report(transaction: Transaction, agent_id: int, claim: Fenced, epochs: Sequence[Mapping[str, Any]]) -> None:
    if epochs and held(transaction, agent_id, [claim]):
        rows = [
            {"job_id": claim.job_id, "attempt": claim.attempt, "epoch": one["epoch"], "metrics": json.dumps(dict(one))}
            for one in epochs
        ]
        transaction.run(transaction.insert(reports).on_conflict_do_nothing(), rows)


def read(transaction: Transaction, job_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for batch in batches(job_ids):
        rows = sa.select(reports).where(reports.c.job_id.in_(batch)).order_by(reports.c.job_id, reports.c.epoch)
        for row in transaction.run(rows):
            found.setdefault(row.job_id, []).append(json.loads(row.metrics))
    return found
