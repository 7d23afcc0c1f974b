"""The job registry: what every process of a sweep agrees on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from qsweep.db import looking, upgrade
from qsweep.db.connection import Database
from qsweep.db.rows import (
    EVERYTHING,
    Accepted,
    Activity,
    AgentInfo,
    AgentRow,
    AttemptRow,
    Blocked,
    BundleRow,
    Calibration,
    CalibrationRow,
    Cancelled,
    Change,
    Checkpoint,
    Claim,
    Committed,
    Counts,
    Curve,
    Deletion,
    Done,
    EventRow,
    Fenced,
    Finished,
    Head,
    JobRow,
    Record,
    Registered,
    Remaining,
    Retried,
    Scope,
    StoreRow,
    Sweep,
    Unkept,
)
from qsweep.db.states import AgentState, FailureClass, State
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import Kind
from qsweep.sweeps.lazily import Lazily

if TYPE_CHECKING:
    import pyarrow as pa

    from qsweep.db import (
        agents,
        blocking,
        bundles,
        chained,
        claims,
        control,
        curves,
        deletion,
        failures,
        outcomes,
        reading,
        registration,
        selections,
        trials,
        watching,
        weakness,
    )
    from qsweep.db.custody import Custody
    from qsweep.sweeps.job import Job
else:  # what only looks needs none of these, nor SQLAlchemy
    agents = Lazily("qsweep.db.agents")
    blocking = Lazily("qsweep.db.blocking")
    bundles = Lazily("qsweep.db.bundles")
    chained = Lazily("qsweep.db.chained")
    claims = Lazily("qsweep.db.claims")
    control = Lazily("qsweep.db.control")
    curves = Lazily("qsweep.db.curves")
    deletion = Lazily("qsweep.db.deletion")
    failures = Lazily("qsweep.db.failures")
    outcomes = Lazily("qsweep.db.outcomes")
    reading = Lazily("qsweep.db.reading")
    registration = Lazily("qsweep.db.registration")
    selections = Lazily("qsweep.db.selections")
    trials = Lazily("qsweep.db.trials")
    watching = Lazily("qsweep.db.watching")
    weakness = Lazily("qsweep.db.weakness")


class Registry:
    """Jobs, sweeps and agents in one SQLite file or one Postgres database.

    The laws, held on both databases by the same suite (`tests/db`):

    1. At most one live lease a job. A claim is one short transaction (`FOR UPDATE SKIP LOCKED` on Postgres,
       `BEGIN IMMEDIATE` on SQLite); none is open while work is done. The lease stands on the agent's row:
       one heartbeat renews it for all its jobs, and taking it back marks that row dead and requeues all its
       jobs in one transaction. A heartbeat that changes no row raises LeaseLost.
    2. Exactly one counted result a job. `checkpointed`, `finish`, `release` and `fail` change a job only
       where its id, its attempt and the state `running` still hold, and return which jobs passed; the rest
       is to be discarded. A finish commits whichever members of a cohort pass.
    3. A dead agent's jobs run again within two leases, without a repair command: every claim first takes
       back expired leases. Postgres' `clock_timestamp()` decides there; on SQLite the boot clock together
       with the boot id, so no change of the wall clock matters.
    4. Each failure has a class and a budget (`db.budgets`). When most of a sweep's recent jobs fail alike,
       the sweep is paused and says why.
    5. Reading never changes state: it takes back no lease, creates no file, and waits for no writer.

    Every change of a job writes one event; heartbeats write none. Each call is one transaction of its own
    (`register` one per chunk), repeated with jitter while the database is locked, restarting or
    unreachable, and safe to repeat when the connection broke before the answer came.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str | Path, *, create: bool = False) -> Self:
        """The registry at `url`: a path, `sqlite:///…` or `postgresql+psycopg://…`.

        Raises InputError, with nothing changed, if it is missing (unless `create`), is no registry, has
        another schema version, can't be reached, or is a SQLite file on a network file system.
        """
        return cls(upgrade.open_database(url, create=create))

    @classmethod
    def open_if_present(cls, url: str | Path) -> Self | None:
        """The registry at `url`; None if there is none yet. Raises InputError as `open` does."""
        database = upgrade.open_if_present(url)
        return None if database is None else cls(database)

    @staticmethod
    def upgrade(url: str | Path) -> tuple[str, str]:
        """Brings the schema to this version; returns the versions before and after."""
        return upgrade.upgrade(url)

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return self._database.place

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Registry({self.url!r})"

    # Sweeps and their jobs

    def add_sweep(
        self,
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
        return self._database.write(
            lambda t: registration.add_sweep(
                t, name=name, label=label, spec=spec, size=size, owner=owner, code=code, keep=keep,
                written=written, seen_code=seen_code,
            )
        )  # fmt: skip

    def register(self, sweep_id: int, jobs: Sequence[Job]) -> Registered:
        """Makes `jobs` members of the sweep, in this order, parents before children. Idempotent."""
        return registration.register(self._database, sweep_id, jobs)

    def select(self, jobs: Iterable[Job]) -> int:
        """The number of the selection of these registered jobs, for the scope of agents. The same again later."""
        identities = [job.identity for job in jobs]
        return self._database.write(lambda t: selections.select(t, identities))

    def find_sweep(self, name: str) -> Sweep:
        """The variant `NAME@label`; a bare NAME is the sweep as written (see `db.naming`).

        Raises AmbiguousName if several variants could be meant, InputError if there is none.
        """
        return self._database.look(lambda t: looking.find_sweep(t, name))

    def sweeps(self) -> list[Sweep]:
        """Every variant, the one launched last first."""
        return self._database.look(looking.sweeps)

    def pause(self, sweep_id: int, reason: str) -> None:
        """No more of its jobs are claimed; those that run go on."""
        self._database.write(lambda t: control.pause(t, sweep_id, reason))

    def pause_for(self, claims: Sequence[Fenced], reason: str) -> None:
        """Pauses every active sweep that holds one of these jobs."""
        ids = [one.job_id for one in claims]
        self._database.write(lambda t: control.pause_for(t, ids, reason))

    def reactivate(self, sweep_id: int) -> None:
        """Active again, whatever it was: its cancelled jobs are queued, its backoffs end."""
        self._database.write(lambda t: control.reactivate(t, sweep_id))

    def cancel(self, sweep_id: int) -> Cancelled:
        """Gives the sweep up; how many jobs are cancelled by it, or will be. One that is over stays as it is.

        What expired leases hold is taken back before. A job that another sweep holds stays as it is. A running
        one that no sweep holds is named by its agent's next `beat`, and is cancelled when that agent releases it.
        """
        self.take_back_expired()
        return self._database.write(lambda t: control.cancel(t, sweep_id))

    def retry(
        self,
        sweep_id: int,
        state: State = State.FAILED,
        failure_class: FailureClass | None = None,
        *,
        gone: Collection[int] = (),
    ) -> Retried:
        """Queues the sweep's failed (or cancelled) jobs again with a fresh budget; a cancelled sweep is active again.

        A training that they take the model of is repeated, with all that was measured of it, if it was done without
        one, or is among `gone`: the ids of trainings whose file is not there. So is one that measures which are still
        queued take.
        """
        return self._database.write(lambda t: control.retry(t, sweep_id, state, failure_class, gone))

    def sharing(self, job_ids: Iterable[int], sweep_id: int) -> dict[str, int]:
        """The other sweeps that hold any of these jobs or their descendants, by title, and how many each."""
        ids = list(job_ids)
        return self._database.read(lambda t: reading.sharing(t, ids, sweep_id))

    def unkept(self, job_ids: Iterable[int]) -> Unkept:
        """Those of these jobs that were done without the model that a sweep asks for, and who waits for it."""
        ids = list(job_ids)
        return self._database.read(lambda t: reading.unkept(t, ids))

    def deletion(self, sweep: Sweep) -> Deletion:
        """What a deletion of the sweep would take with it, and what would stay."""
        return self._database.read(lambda t: deletion.look(t, sweep.id))

    def check_deletable(self, sweep: Sweep) -> None:
        """Raises InputError while some of the sweep's jobs wait or run."""
        self._database.read(lambda t: deletion.check(t, sweep.id))

    def delete(self, sweep_id: int) -> Deletion:
        """Deletes the sweep: it is listed nowhere any more, and what it alone held counts no more; what went.

        Its jobs, attempts and events stay as history; a job that is asked for again is computed again. Raises
        InputError while some of its jobs wait or run.
        """
        return self._database.write(lambda t: deletion.delete(t, sweep_id))

    def invalidate(self, job_ids: Iterable[int], reason: str) -> int:
        """Supersedes the results of these done jobs and all their descendants; returns how many jobs changed.

        They are queued again from the first step. Their attempts and files stay, and no longer count.
        """
        ids = list(job_ids)
        return self._database.write(lambda t: control.invalidate(t, ids, reason))

    # Looking (law 5)

    def counts(self, sweep_id: int, selection: int | None = None) -> Counts:
        """How many of the sweep's jobs, or of a selection of them, stand in each state."""
        return self._database.look(lambda t: looking.counts(t, sweep_id, selection))

    def jobs(
        self, sweep_id: int, state: State | None = None, *, selection: int | None = None, limit: int | None = None
    ) -> list[JobRow]:
        """The sweep's jobs, or a selection of them, in the order of their registration."""
        return self._database.look(lambda t: looking.jobs(t, sweep_id, state, selection, limit))

    def record(self) -> Record:
        """All jobs and events, at one moment."""
        return self._database.snapshot(reading.record)

    def jobs_of(self, ids: Sequence[int]) -> list[JobRow]:
        """These jobs as they stand, in the order of their registration."""
        return self._database.read(lambda t: reading.jobs_of(t, ids))

    def job(self, identity_prefix: str) -> JobRow:
        """The one job whose identity begins so; InputError if there is none, or more than one."""
        return self._database.read(lambda t: reading.job(t, identity_prefix))

    def attempts(self, job_id: int) -> list[AttemptRow]:
        """Every execution of the job, the first one first."""
        return self._database.read(lambda t: reading.attempts(t, job_id))

    def events(
        self,
        job_id: int | None = None,
        *,
        since: int = 0,
        sweep_id: int | None = None,
        limit: int | None = None,
    ) -> list[EventRow]:
        """The events after the event `since`, of one job, one sweep or all, in order."""
        return self._database.read(
            lambda t: reading.events(t, job_id=job_id, since=since, sweep_id=sweep_id, limit=limit)
        )

    def agents(self, state: AgentState | None = AgentState.ALIVE) -> list[AgentRow]:
        return self._database.look(lambda t: looking.agents(t, state))

    def held(self, sweep_id: int | None = None, selection: int | None = None) -> dict[int, int]:
        """How many running jobs each agent holds: of the sweep, or of a selection of them; of all without either."""
        return self._database.read(lambda t: reading.held(t, sweep_id, selection))

    def stranded(self, sweep_id: int) -> int:
        """How many jobs of a cancelled sweep wait although no other sweep holds them: until it is resumed."""
        return self._database.read(lambda t: reading.stranded(t, sweep_id))

    def blocked(self, sweep_id: int, selection: int | None = None) -> list[Blocked]:
        """The queued jobs of the sweep, or of a selection, that can't run as things stand, by what keeps them."""
        return self._database.read(lambda t: blocking.blocked(t, sweep_id, selection))

    def committed(self, sweep_id: int) -> list[Committed]:
        """The pointers of the sweep's done jobs: what `ResultStore.read` may count."""
        return self._database.look(lambda t: looking.committed(t, sweep_id))

    def pointers(self, sweep_id: int) -> pa.Table:
        """What `committed` says, as Arrow: `job`, `attempt`, `publication`, `kind`."""
        from qsweep.db import views  # here: Arrow takes longer to import than `qsweep status` to answer

        return self._database.look(lambda t: views.read_pointers(t, sweep_id))

    def view(self, name: str, sweep_id: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The sweep's `jobs`, `attempts` or `events` as Arrow, with these columns (see `db.views`)."""
        from qsweep.db import views

        return self._database.look(lambda t: views.read_view(t, name, sweep_id, columns))

    def snapshot(self, sweep_id: int, names: Sequence[str] = ()) -> tuple[pa.Table, dict[str, pa.Table]]:
        """The sweep's pointers and these views, all at one moment."""
        from qsweep.db import views

        return self._database.look(
            lambda t: (
                views.read_pointers(t, sweep_id),
                {name: views.read_view(t, name, sweep_id) for name in names},
            )
        )

    def work(self, sweep_id: int) -> dict[State, float]:
        """The estimated operations of the sweep's jobs in each state."""
        return self._database.read(lambda t: watching.work(t, sweep_id))

    def changes(self, sweep_id: int, *, since: int, limit: int) -> list[Change]:
        """Up to `limit` events of the sweep after the event `since`, the oldest first."""
        return self._database.read(lambda t: watching.changes(t, sweep_id, since=since, limit=limit))

    def recent_changes(self, sweep_id: int, limit: int) -> list[Change]:
        """Up to `limit` of the sweep's newest events, the newest first."""
        return self._database.read(lambda t: watching.recent_changes(t, sweep_id, limit))

    def done_after(self, sweep_id: int, job_id: int, limit: int) -> list[Done]:
        """Up to `limit` of the sweep's done jobs beyond `job_id`, in order of registration."""
        return self._database.read(lambda t: watching.done_after(t, sweep_id, job_id, limit))

    def activity(self, sweep_id: int, *, since: int) -> Activity:
        """How many changes of the sweep's jobs there were after the event `since`, and by which agents."""
        return self._database.read(lambda t: watching.activity(t, sweep_id, since=since))

    def curves(self, sweep_id: int) -> list[Curve]:
        """The epochs so far of the sweep's trainings that are not done."""
        return self._database.read(lambda t: curves.of_sweep(t, sweep_id))

    def curve(self, job_id: int) -> list[Curve]:
        """The epochs so far of one job, if it is not done and has told any."""
        return self._database.read(lambda t: curves.of_job(t, job_id))

    def committed_job(self, job_id: int) -> list[Committed]:
        """The pointer of one job, if it is done."""
        return self._database.read(lambda t: reading.committed_job(t, job_id))

    def newest_event(self) -> int:
        """The number of the newest event: it changes whenever a job does."""
        return self._database.read(reading.newest_event)

    def pulse(self) -> int | None:
        """A number that is another one once anybody has changed something, cheaper than a look; None on Postgres."""
        return self._database.pulse()

    def counted(self) -> list[tuple[Kind, str, str | None]]:
        """Of each done job: its kind, the publication of its results, and the file of its kept model."""
        return self._database.look(looking.counted)

    def store(self) -> StoreRow | None:
        """The results store of this registry; None before its first launch, or since a migration."""
        return self._database.look(looking.store)

    @property
    def custody(self) -> Custody:
        """Whose the files of the results, models and checkpoints are."""
        from qsweep.db.custody import Custody

        return Custody(self._database)

    @property
    def read_only(self) -> bool:
        """Whether this registry lies where nothing can be written: it can be looked at."""
        return self._database.read_only

    def checkpoint_files(self) -> set[str]:
        """Every checkpoint file that some job may still resume from."""
        return self._database.read(reading.checkpoint_files)

    def checkpoint_sums(self) -> dict[str, str]:
        """The same with the SHA-256 of each."""
        return self._database.read(reading.checkpoint_sums)

    def publications(self) -> set[str]:
        """Every publication that a job of any sweep points to."""
        return self._database.look(looking.publications)

    def published(self) -> set[str]:
        """Every publication that counted once, whether or not a job still points to it."""
        return self._database.read(reading.published)

    # Agents

    def enlist(self, info: AgentInfo) -> int:
        """A new incarnation of an agent, with a lease; returns its id."""
        return self._database.write(lambda t: agents.enlist(t, info))

    def beat(self, agent_id: int, note: str = "") -> frozenset[int]:
        """Renews the lease; returns the claimed jobs that no sweep wants any more (release them).

        Raises LeaseLost when the lease was taken back.
        """
        return self._database.write(lambda t: agents.beat(t, agent_id, note))

    def retire(self, agent_id: int) -> None:
        """The agent leaves; what it still held is queued again."""
        self._database.write(lambda t: agents.retire(t, agent_id))

    def reason_to_stop(self, agent_id: int) -> str:
        """Why this agent, and any other in its place, should do no more; empty if it should go on (`db.weakness`)."""
        return self._database.read(lambda t: weakness.reason_to_stop(t, agent_id))

    def stop(self, agent_id: int, reason: str) -> None:
        """The agent stops for this reason; what it still held is queued again. One that has died is noted as such."""
        self._database.write(lambda t: agents.stop(t, agent_id, reason))

    def bury(
        self, agent_id: int, failure_class: FailureClass, error: str, *, slots: int | None = None, kind: str = ""
    ) -> int:
        """Its supervisor saw it die: its jobs end in this class; returns how many. `slots` and `kind` as in `fail`."""
        return self._database.write(lambda t: failures.bury(t, agent_id, failure_class, error, slots, kind))

    def bury_dead_processes(self, *, host: str, boot_id: str, is_alive: Callable[[int, float], bool]) -> int:
        """Takes back at once the leases of this host's dead agents; returns how many agents.

        `boot_id` is `db.clock.machine_id`. `is_alive(pid, process_started)` is asked about each agent that enlisted
        with the same one; any other, of an earlier boot or another container of this name, lives by its lease alone.
        """
        return agents.bury_dead_processes(self._database, host, boot_id, is_alive)

    def take_back_expired(self) -> int:
        """Takes back expired leases (as every claim does first); returns how many agents."""
        return self._database.write(claims.take_back_expired)

    # Bundles: a holder without a heartbeat, whose jobs no clock takes back

    def pack(self, holder: int, name: str, job_ids: Iterable[int]) -> list[Claim]:
        """Claims for the bundle `name` those of these jobs that wait; what its holder holds now.

        The holder is an agent, enlisted with a lease as any other, until `send_away`. A child goes only if its parent
        is done or goes too. Raises LeaseLost.
        """
        ids = list(job_ids)
        return self._database.write(lambda t: bundles.pack(t, holder, name, ids))

    def send_away(self, holder: int, name: str, token: str) -> None:
        """The bundle lies whole where it belongs: from now on only an import or a recall moves its jobs. Raises
        LeaseLost if they were taken back before."""
        self._database.write(lambda t: bundles.send_away(t, holder, name, token))

    def bundles(self) -> list[BundleRow]:
        """All that ever left; those that are away hold jobs."""
        return self._database.look(looking.bundles)

    def recall(self, holder: int) -> int:
        """Takes back what a bundle holds; returns how many jobs. Its results no longer pass the fence."""
        return self._database.write(lambda t: bundles.recall(t, holder))

    def land(self, holder: int, *, host: str, device: str, build: str) -> None:
        """Notes where a bundle was computed. When nothing of it is out any more, its holder retires."""
        self._database.write(lambda t: bundles.land(t, holder, host=host, device=device, build=build))

    # Claims and what becomes of them

    def next_cohort(self, agent_id: int, scope: Scope = EVERYTHING, *, parents: Sequence[int] = ()) -> Head | None:
        """What this agent should claim next within the scope: first of all a child of `parents`.

        Only if there is nothing it takes back expired leases, and looks again. Raises LeaseLost.
        """
        return claims.next_cohort(self._database, agent_id, scope, parents)

    def claim(self, agent_id: int, head: Head, limit: int, scope: Scope = EVERYTHING) -> list[Claim]:
        """Up to `limit` jobs of the head's cohort within the scope, further progress first.

        Takes back expired leases before, and renews this agent's. A head that has to run alone yields one
        job. Empty when others were faster. Raises LeaseLost.
        """
        return chained.claim(self._database, agent_id, head, limit, scope)

    def remaining(self, scope: Scope = EVERYTHING) -> Remaining:
        """What is left within the scope, for an agent that found nothing to claim. Reads only."""
        return self._database.read(lambda t: claims.remaining(t, scope))

    def calibration(self, *, shape: str, device: str, build: str, slots: int, form: str) -> Calibration:
        """The recorded slots and form; these, if none are recorded yet. Fixed from then on."""
        return self._database.write(
            lambda t: claims.calibration(t, shape, device, build, Calibration(slots=slots, form=form))
        )

    def recalibrate(self, *, shape: str, device: str, build: str, found: Calibration) -> Calibration:
        """Puts what was measured in the place of what may be recorded. Raises InputError while jobs are running:
        theirs would go on with other slots."""
        self.check_idle()
        return self._database.write(lambda t: claims.recalibrate(t, shape, device, build, found))

    def check_idle(self) -> None:
        """Raises InputError if any job is running."""
        if self._database.read(lambda t: claims.remaining(t, EVERYTHING)).running:
            raise InputError("jobs are running", place="calibrate", allowed="wait for them, or cancel their sweeps")

    def find_calibration(self, *, shape: str, device: str, build: str) -> Calibration | None:
        return self._database.read(lambda t: reading.find_calibration(t, shape, device, build))

    def calibrations_of(self, shapes: Iterable[str]) -> list[CalibrationRow]:
        """Every calibration of these shapes, on whatever device."""
        wanted = list(shapes)
        return self._database.read(lambda t: reading.calibrations_of(t, wanted))

    def resumed(self, agent_id: int, claim: Fenced, step: int) -> None:
        """Corrects the step that this attempt started from, if it was not the newest checkpoint."""
        self._database.write(lambda t: outcomes.resumed(t, agent_id, claim, step))

    def checkpointed(self, agent_id: int, checkpoints: Sequence[Checkpoint]) -> Accepted:
        """Records checkpoints, the last two a job; `deletable` names the files that fell out."""
        return self._database.write(lambda t: outcomes.checkpointed(t, agent_id, checkpoints))

    def finish(self, agent_id: int, finished: Sequence[Finished]) -> Accepted:
        """Commits results: the pointers and the state, together. Only accepted jobs count."""
        return chained.finish(self._database, agent_id, finished)

    def release(self, agent_id: int, claims: Sequence[Fenced], detail: str = "") -> frozenset[int]:
        """Hands jobs back as preempted; returns those that passed the fence."""
        return self.fail(agent_id, claims, FailureClass.PREEMPTED, detail)

    def fail(
        self,
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
        return self._database.write(lambda t: failures.fail(t, agent_id, claims, failure_class, error, slots, kind))

    # Trials of a tuning run

    def claim_job(self, agent_id: int, job_id: int) -> Claim | None:
        """This very job, queued or cancelled, whether a sweep wants it or not; None if it can't be had now.

        A job that was not begun yet is bound to one slot. Raises LeaseLost.
        """
        return trials.claim(self._database, agent_id, job_id)

    def report(self, agent_id: int, claim: Fenced, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Records finished epochs (rows of `epochs`) of a running job; what is known already stays. Fenced."""
        self._database.write(lambda t: trials.report(t, agent_id, claim, epochs))

    def reports(self, job_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """The reported epochs of these jobs, in order."""
        return self._database.read(lambda t: trials.read(t, job_ids))

    def end_trial(self, sweep_id: int, job_id: int, epoch: int) -> None:
        """Records that the tuning run wants no more of this job than `epoch` epochs; its first word about a job stays.

        A queued job is cancelled, unless an active sweep wants it whole.
        """
        self._database.write(lambda t: trials.end(t, sweep_id, job_id, epoch))

    def trial_ended_after(self, sweep_id: int, job_id: int) -> int | None:
        """The epochs after which the tuning run ended this job's trial; None if it never did."""
        return self._database.read(lambda t: trials.ended_after(t, sweep_id, job_id))
