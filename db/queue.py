"""The queue: what a working agent asks of the registry, and what it says of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from qsweep.db import calibrations, claims, failures, outcomes, weakness
from qsweep.db.claims import RENEW
from qsweep.db.control import pause
from qsweep.db.errors import LeaseLost
from qsweep.db.parts import Part, reads, writes
from qsweep.db.rows import (
    EVERYTHING,
    Accepted,
    Calibration,
    Checkpoint,
    Claim,
    Fenced,
    Finished,
    Head,
    Load,
    Remaining,
    Scope,
)
from qsweep.db.states import FailureClass, SweepState
from qsweep.db.tables import RUNNING, attempts, jobs, loads, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction

BEAT = RENEW.values(note=sa.bindparam("new_note"))
HELD_BY_NOBODY = (
    sa.select(jobs.c.id)
    .where(RUNNING, jobs.c.agent_id == sa.bindparam("agent"), sa.not_(jobs.c.wanted))
    .where(
        ~sa.exists().where(
            sweep_jobs.c.job_id == jobs.c.id,
            sweep_jobs.c.sweep_id == sweeps.c.id,
            sweeps.c.state != SweepState.CANCELLED.value,
        )
    )
)


class Queue(Part):
    """What a working agent asks and says: `workers.agent.queue.JobQueue` on a database.

    Ownership
        At most one live lease a job. A claim is one short transaction (`FOR UPDATE SKIP LOCKED` on Postgres, `BEGIN
        IMMEDIATE` on SQLite); none is open while work is done. The lease stands on the agent's row, and each claim
        renews it.
    Consistency
        Exactly one counted result a job. `checkpointed`, `finish`, `release` and `fail` change a job only where its id,
        its attempt, its agent and the state `running` still hold, and return which jobs passed; the rest is to be
        discarded. A finish commits whichever members of a cohort pass. Each failure has a class and a budget
        (`db.budgets`); when most of a sweep's recent jobs fail alike, the sweep is paused and says why. Every call may
        be repeated when the connection broke before the answer came.
    Exceptions
        LeaseLost when another process took the agent's lease back: its jobs run elsewhere.
    """

    @writes
    def beat(self, transaction: Transaction, agent_id: int, note: str = "", load: Load | None = None) -> frozenset[int]:
        """Renews the lease; returns the claimed jobs that no sweep wants any more (release them).

        A `load` is kept, once however often it is told. Raises LeaseLost when the lease was taken back.
        """
        if transaction.run(BEAT, {"agent": agent_id, "new_note": note}).first() is None:
            raise LeaseLost(agent_id)
        if load is not None:
            told = transaction.insert(loads).values(agent_id=agent_id, **asdict(load))
            transaction.run(told.on_conflict_do_nothing())
        return frozenset(transaction.run(HELD_BY_NOBODY, {"agent": agent_id}).scalars())

    def next_cohort(self, agent_id: int, scope: Scope = EVERYTHING, *, parents: Sequence[int] = ()) -> Head | None:
        """What this agent should claim next within the scope: first of all a child of `parents`.

        Only if there is nothing it takes back expired leases, and looks again. Raises LeaseLost.
        """
        return claims.next_cohort(self._database, agent_id, scope, parents)

    def claim(
        self, agent_id: int, head: Head, limit: int, scope: Scope = EVERYTHING, *, sharers: int = 1
    ) -> list[Claim]:
        """Up to `limit` jobs of the head's cohort within the scope, further progress first: no more than one of so many
        agents should take of all that is claimable there (`db.rules.share`).

        Takes back expired leases before, and renews this agent's. A head that has to run alone yields one
        job. Empty when others were faster. Raises LeaseLost.
        """
        return claims.claim(self._database, agent_id, head, limit, scope, sharers)

    @reads
    def remaining(self, transaction: Transaction, scope: Scope = EVERYTHING) -> Remaining:
        """What is left within the scope, for an agent that found nothing to claim. Reads only."""
        return claims.remaining(transaction, scope)

    @writes
    def calibration(
        self, transaction: Transaction, *, shape: str, device: str, build: str, slots: int, form: str
    ) -> Calibration:
        """The recorded slots and form; these, if none are recorded yet. Fixed from then on."""
        return calibrations.settle(transaction, shape, device, build, Calibration(slots=slots, form=form))

    @writes
    def resumed(self, transaction: Transaction, agent_id: int, claim: Fenced, step: int) -> None:
        """Corrects the step that this attempt started from, if it was not the newest checkpoint."""
        if outcomes.held(transaction, agent_id, [claim]):
            transaction.run(
                attempts.update()
                .where(attempts.c.job_id == claim.job_id, attempts.c.attempt == claim.attempt)
                .values(resumed_from=step)
            )

    @writes
    def checkpointed(self, transaction: Transaction, agent_id: int, checkpoints: Sequence[Checkpoint]) -> Accepted:
        """Records checkpoints, the last two a job; `deletable` names the files that fell out."""
        return outcomes.checkpointed(transaction, agent_id, checkpoints)

    @writes
    def finish(self, transaction: Transaction, agent_id: int, finished: Sequence[Finished]) -> Accepted:
        """Commits results: the pointers and the state, together. Only accepted jobs count."""
        return outcomes.finish(transaction, agent_id, finished)

    def release(self, agent_id: int, claims: Sequence[Fenced], detail: str = "") -> frozenset[int]:
        """Hands jobs back as preempted; returns those that passed the fence."""
        return self.fail(agent_id, claims, FailureClass.PREEMPTED, detail)

    @writes
    def fail(
        self,
        transaction: Transaction,
        agent_id: int,
        claims: Sequence[Fenced],
        failure_class: FailureClass,
        error: str,
        *,
        slots: int | None = None,
        kind: str = "",
    ) -> frozenset[int]:
        """Ends these attempts in this class, and queues or fails the jobs by budget.

        `slots`: how many slots the engine had when it ran out of memory. `kind`: within the class, the kind of error,
        by which like failures are found (`error` is for people): the type of an exception, a signal.
        """
        return failures.fail(transaction, agent_id, claims, failure_class, error, slots, kind)

    @reads
    def reason_to_stop(self, transaction: Transaction, agent_id: int) -> str:
        """Why this agent, and any other in its place, should do no more; empty if it should go on (`db.weakness`)."""
        return weakness.reason_to_stop(transaction, agent_id)

    @writes
    def pause_for(self, transaction: Transaction, claims: Sequence[Fenced], reason: str) -> None:
        """Pauses every active sweep that holds one of these jobs."""
        holding = (
            sa.select(sweeps.c.id)
            .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps.c.id)
            .where(sweep_jobs.c.job_id.in_([one.job_id for one in claims]), sweeps.c.state == SweepState.ACTIVE.value)
            .distinct()
        )
        for sweep_id in transaction.run(holding).scalars().all():
            pause(transaction, sweep_id, reason)
