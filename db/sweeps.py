"""Sweeps: registering, selecting, controlling and deleting them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence

import sqlalchemy as sa

from qsweep.db import blocking, control, deletion, registration
from qsweep.db.claims import take_back_expired
from qsweep.db.moves import batches
from qsweep.db.parts import Part, reads, writes
from qsweep.db.rows import Blocked, Cancelled, Deletion, Registered, Retried, Sweep
from qsweep.db.states import FailureClass, State, SweepState
from qsweep.db.tables import jobs as jobs_table
from qsweep.db.tables import selections, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction
from qsweep.sweeps.job import Job


class Sweeps(Part):
    """Sweeps: how they and their jobs come in, and what a user may do to them.

    Ownership: a job is held by every sweep that registered it, is wanted while one of these is active, and is given up
    when all of them are. What one sweep asks (its models, its results) never goes by what another does.
    Consistency: of a sweep that is there, the jobs and the way in which they are tuned never change. `register` is one
    transaction per chunk, every other call one.
    Exceptions: InputError, with nothing changed.
    """

    @writes
    def add(
        self,
        transaction: Transaction,
        *,
        name: str,
        label: str,
        spec: str,
        size: int,
        owner: str = "",
        code: str = "",
        keep: str = "all",
        written: bool = False,
        seen_code: str = "",
    ) -> Sweep:
        """The variant `name@label`, added or launched again, with a new time of launch. Its state stays as it is (see
        `reactivate`), and so does its owner. `written`: as its file says, so that the bare name means it.

        Of a sweep that is there, the jobs and the way in which they are tuned never change: another specification is
        refused by an InputError. Its words may; `keep` only ever grows; `code` replaces only what was there when the
        caller looked (`seen_code`).
        """
        return registration.add_sweep(
            transaction, name=name, label=label, spec=spec, size=size, owner=owner, code=code, keep=keep,
            written=written, seen_code=seen_code,
        )  # fmt: skip

    def register(self, sweep_id: int, jobs: Sequence[Job], *, told: Callable[[int], None] | None = None) -> Registered:
        """Makes `jobs` members of the sweep, in this order, parents before children. Idempotent. `told` hears now and
        then how many of them are."""
        return registration.register(self._database, sweep_id, jobs, told)

    @writes
    def select(self, transaction: Transaction, jobs: Collection[Job]) -> int:
        """The number of the selection of these registered jobs, for the scope of agents. The same again later."""
        identities = [job.identity for job in jobs]
        number = int(hashlib.sha256("".join(sorted(identities)).encode()).hexdigest()[:15], 16)
        for batch in batches(identities):
            found = sa.select(sa.literal(number, sa.BigInteger), jobs_table.c.id).where(
                transaction.among(jobs_table.c.identity, batch)
            )
            statement = transaction.insert(selections).from_select(["selection", "job_id"], found)
            transaction.run(statement.on_conflict_do_nothing())
        return number

    @writes
    def pause(self, transaction: Transaction, sweep_id: int, reason: str) -> None:
        """No more of its jobs are claimed; those that run go on."""
        control.pause(transaction, sweep_id, reason)

    @writes
    def reactivate(self, transaction: Transaction, sweep_id: int) -> None:
        """Active again, whatever it was: its cancelled jobs are queued, its backoffs end."""
        control.reactivate(transaction, sweep_id)

    @writes
    def cancel(self, transaction: Transaction, sweep_id: int) -> Cancelled:
        """Gives the sweep up; how many jobs are cancelled by it, or will be. One that is over stays as it is.

        What expired leases hold is taken back before. A job that another sweep holds stays as it is. A running
        one that no sweep holds is named by its agent's next `Queue.beat`, and is cancelled when that agent releases it.
        """
        take_back_expired(transaction)
        return control.cancel(transaction, sweep_id)

    @writes
    def retry(
        self,
        transaction: Transaction,
        sweep_id: int,
        state: State = State.FAILED,
        failure_class: FailureClass | None = None,
        *,
        gone: Collection[int] = (),
    ) -> Retried:
        """Queues the sweep's failed (or cancelled) jobs again with a fresh budget; a cancelled sweep is active again.

        A training that they take the model of is repeated, with all that was measured of it, if it was done without
        one, or is among `gone`: the ids of trainings whose file is not there.
        """
        return control.retry(transaction, sweep_id, state, failure_class, gone)

    @writes
    def invalidate(self, transaction: Transaction, job_ids: Collection[int], reason: str) -> int:
        """Supersedes the results of these done jobs and all their descendants; returns how many jobs changed.

        They are queued again from the first step. Their attempts and files stay, and no longer count.
        """
        return control.invalidate(transaction, list(job_ids), reason)

    @reads
    def deletion(self, transaction: Transaction, sweep: Sweep) -> Deletion:
        """What a deletion of the sweep would take with it, and what would stay."""
        return deletion.look(transaction, sweep.id)

    @reads
    def check_deletable(self, transaction: Transaction, sweep: Sweep) -> None:
        """Raises InputError while some of the sweep's jobs wait or run."""
        deletion.check(transaction, sweep.id)

    @writes
    def delete(self, transaction: Transaction, sweep_id: int) -> Deletion:
        """Deletes the sweep: it is listed nowhere any more, and what it alone held counts no more; what went.

        Its jobs, attempts and events stay as history; a job that is asked for again is computed again. Raises
        InputError while some of its jobs wait or run.
        """
        return deletion.delete(transaction, sweep_id)

    @reads
    def blocked(self, transaction: Transaction, sweep_id: int, selection: int | None = None) -> list[Blocked]:
        """The queued jobs of the sweep, or of a selection, that can't run as things stand, by what keeps them."""
        return blocking.blocked(transaction, sweep_id, selection)

    @reads
    def sharing(self, transaction: Transaction, job_ids: Sequence[int], sweep_id: int) -> dict[str, int]:
        """The other sweeps that hold any of these jobs or their descendants, by title, and how many each."""
        found: dict[str, int] = {}
        level = list(dict.fromkeys(job_ids))
        counted = set(level)  # one that is given may be a descendant of another
        while level:
            for batch in batches(level):
                statement = (
                    sa.select(sweeps.c.name, sweeps.c.label, sa.func.count().label("jobs"))
                    .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps.c.id)
                    .where(sweep_jobs.c.job_id.in_(batch), sweeps.c.id != sweep_id)
                    .group_by(sweeps.c.id, sweeps.c.name, sweeps.c.label)
                    .order_by(sweeps.c.id)
                )
                for row in transaction.run(statement):
                    title = f"{row.name}@{row.label}"
                    found[title] = found.get(title, 0) + row.jobs
            level = [
                child
                for batch in batches(level)
                for child in transaction.run(
                    sa.select(jobs_table.c.id).where(jobs_table.c.parent_id.in_(batch))
                ).scalars()
                if child not in counted
            ]
            counted.update(level)
        return found

    @reads
    def stranded(self, transaction: Transaction, sweep_id: int) -> int:
        """How many jobs of a cancelled sweep wait although no other sweep holds them: until it is resumed."""
        other, theirs = sweep_jobs.alias(), sweeps.alias()
        held = sa.exists().where(
            other.c.job_id == jobs_table.c.id, theirs.c.id == other.c.sweep_id,
            theirs.c.state != SweepState.CANCELLED.value,
        )  # fmt: skip
        statement = (
            sa.select(sa.func.count())
            .select_from(jobs_table.join(sweep_jobs, sweep_jobs.c.job_id == jobs_table.c.id))
            .where(sweep_jobs.c.sweep_id == sweep_id, jobs_table.c.state == State.QUEUED.value, sa.not_(held))
        )
        return int(transaction.run(statement).scalar_one())
