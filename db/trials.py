"""Trials of a tuning run: an agent is told which job to run, reports each epoch, and may be stopped early.

The sweep of a tuning run is paused, so that no agent claims its jobs by itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.claims import CLAIMED, FITTING, QUEUED, claimed_before, renew, start
from qsweep.db.moves import batches, move
from qsweep.db.outcomes import held, locked
from qsweep.db.parts import Part, reads, writes
from qsweep.db.rows import Claim, Fenced
from qsweep.db.states import FailureClass, State
from qsweep.db.tables import jobs, reports, stops
from qsweep.db.transaction import Transaction

ALONE = 1
"""Slots of the engine for a job that a trial begins: the other slots of a cohort would stay vacant."""


class Trials(Part):
    """Trials of a tuning run: an agent is told which job to run, reports each epoch, and may be stopped early.

    Ownership: the sweep of a tuning run is paused, so that no agent claims its jobs by itself. A claimed trial is a
    job like any other, whose agent goes on with it by the calls of `db.queue`.
    Consistency: reports are fenced, as checkpoints are; the first word about an epoch, and about a trial's end, stays.
    Exceptions: LeaseLost.
    """

    def claim(self, agent_id: int, job_id: int) -> Claim | None:
        """This very job, queued or cancelled, whether a sweep wants it or not; None if it can't be had now.

        A job that was not begun yet is bound to one slot. Raises LeaseLost.
        """
        number = random.getrandbits(62)  # by which a repetition, if the answer is lost, finds its own claim
        return self._database.write(lambda t: _claim(t, agent_id, job_id, number))

    @writes
    def report(
        self, transaction: Transaction, agent_id: int, claim: Fenced, epochs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Records finished epochs (rows of `epochs`) of a running job; what is known already stays. Fenced."""
        if epochs and held(transaction, agent_id, [claim]):
            rows = [
                {
                    "job_id": claim.job_id,
                    "attempt": claim.attempt,
                    "epoch": one["epoch"],
                    "metrics": json.dumps(dict(one)),
                }
                for one in epochs
            ]
            transaction.run(transaction.insert(reports).on_conflict_do_nothing(), rows)

    @reads
    def reports(self, transaction: Transaction, job_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """The reported epochs of these jobs, in order."""
        found: dict[int, list[dict[str, Any]]] = {}
        for batch in batches(job_ids):
            rows = sa.select(reports).where(reports.c.job_id.in_(batch)).order_by(reports.c.job_id, reports.c.epoch)
            for row in transaction.run(rows):
                found.setdefault(row.job_id, []).append(json.loads(row.metrics))
        return found

    @writes
    def end(self, transaction: Transaction, sweep_id: int, job_id: int, epoch: int) -> None:
        """Records that the tuning run wants no more of this job than `epoch` epochs; its first word about a job stays.

        A queued job is cancelled, unless an active sweep wants it whole.
        """
        decision = {"sweep_id": sweep_id, "job_id": job_id, "epoch": epoch}
        transaction.run(transaction.insert(stops).on_conflict_do_nothing(), decision)
        (row,) = locked(transaction, [job_id])
        if row.state == State.QUEUED and not row.wanted:
            values = {"not_before": None, "failure_class": FailureClass.STOPPED.value}
            move(transaction, [row], State.CANCELLED, "stopped", values=values)

    @reads
    def ended_after(self, transaction: Transaction, sweep_id: int, job_id: int) -> int | None:
        """The epochs after which the tuning run ended this job's trial; None if it never did."""
        decided = sa.select(stops.c.epoch).where(stops.c.sweep_id == sweep_id, stops.c.job_id == job_id)
        return transaction.run(decided).scalar()


def _claim(transaction: Transaction, agent_id: int, job_id: int, number: int) -> Claim | None:
    renew(transaction, agent_id)
    if transaction.again and (claimed := claimed_before(transaction, agent_id, number)):
        return claimed[0]
    (row,) = locked(transaction, [job_id])
    if row.state == State.CANCELLED:
        move(transaction, [row], State.QUEUED, "wanted by a trial")
    free = sa.select(*CLAIMED).where(jobs.c.id == job_id, QUEUED, sa.not_(jobs.c.blocked), FITTING)
    rows = transaction.run(free, {"agent": agent_id}).all()
    slots = row.slots_limit if row.progress or row.slots_limit else ALONE
    claims = start(transaction, agent_id, rows, number, slots_limit=slots)
    return claims[0] if claims else None
