"""What goes into the registry and what comes out of it, as values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from qsweep.db.rules import LEASE
from qsweep.db.states import AgentState, FailureClass, Obstacle, State, SweepState
from qsweep.sweeps.kinds import TRAIN, File, Kind, kind_named

if TYPE_CHECKING:
    from qsweep.sweeps.job import Job
    from qsweep.sweeps.training import Training


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One variant of a sweep, `NAME@label`. Times are Unix seconds."""

    id: int
    name: str
    label: str
    spec: str
    size: int
    owner: str
    code: str
    keep: str
    state: SweepState
    reason: str
    created_at: float
    launched_at: float
    written_at: float | None = None
    """When it was launched last as its file says, under no name of its own; None for a variant."""

    @property
    def title(self) -> str:
        return f"{self.name}@{self.label}"

    @property
    def called(self) -> str:
        """The shortest name by which to go on with it right after its launch."""
        return self.title if self.written_at is None else self.name

    @property
    def is_tuning(self) -> bool:
        """Whether it is a tuning run."""
        return '"tuning"' in self.spec and "tuning" in json.loads(self.spec)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What a registration found: jobs new to the registry, known from other sweeps, already in this one."""

    new: int
    shared: int
    known: int


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """What a cancel did: jobs that waited are cancelled, those that run are told to stop at their agents' next beat."""

    queued: int
    running: int
    over: bool = False
    """Nothing waited or ran: the sweep is as it was."""


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What a retry did: jobs that are queued again, and trainings that are repeated, since they left no model."""

    queued: int
    trainings: int = 0


@dataclass(frozen=True, kw_only=True)
class Unkept:
    """Trainings that were done without the model that some sweep asks for."""

    jobs: frozenset[int]
    measured_by: Mapping[str, int]
    """Of how many of them measures of a sweep wait for the model, by its title."""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What goes with a sweep that is deleted, and what stays."""

    jobs: int
    """Jobs that no other sweep holds."""
    open: int
    """Its jobs that wait or run, shared ones among them."""
    shared: dict[str, int]
    """Other sweeps that hold some of its jobs, by title, and how many."""
    identities: tuple[str, ...]
    """The done ones of `jobs`."""
    models: tuple[str, ...]
    checkpoints: tuple[str, ...]
    publications: tuple[str, ...]
    """Results files in which nothing else counts."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many jobs of a sweep stand in each state. `diverged` are among `done`, and `away`, which a bundle
    holds, among `running`."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    diverged: int = 0
    away: int = 0

    @property
    def total(self) -> int:
        return self.queued + self.running + self.done + self.failed + self.cancelled

    @property
    def open(self) -> int:
        """Those that wait or run."""
        return self.queued + self.running


@dataclass(frozen=True, kw_only=True)
class AgentInfo:
    """Who enlists. `process_started` and `boot_id` tell this process from any other of the same pid.

    `boot_id` is `db.clock.machine_id`: the boot and the pid namespace.
    """

    host: str
    pid: int
    process_started: float
    boot_id: str
    backend: str
    device: str
    build: str
    precisions: tuple[str, ...] = ("fp32",)
    code: str = ""
    log: str = ""
    lease: float = LEASE
    place: str | None = None
    """What it has in common with those that are started again after it, beginning with its launch and a slash."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What an agent and the processes below it use: processors on average since the reading before, the rest now."""

    at: float
    """When, in seconds since 1970 by the agent's clock."""
    processor: float
    """Processors kept busy."""
    memory: int
    """Bytes that are resident."""
    gpu: float | None = None
    """Share of the time, 0 to 1, in which the GPU had work, of whomever; None without one, or if it does not tell."""
    gpu_memory: int | None = None
    """Bytes that this agent holds on it."""


@dataclass(frozen=True, kw_only=True)
class AgentRow:
    """One incarnation of an agent. `expired`: alive by the book, but its lease has run out."""

    id: int
    host: str
    boot_id: str
    pid: int
    backend: str
    device: str
    build: str
    code: str
    log: str
    lease: float
    place: str | None
    state: AgentState
    reason: str
    note: str
    enlisted_at: float
    beat_at: float
    ended_at: float | None
    expired: bool
    process_started: float
    overdue: float
    """Seconds since the lease ran out; negative before."""


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """Queued jobs that can't run, because an ancestor of theirs will not be done as things stand."""

    jobs: int
    parent: str
    """The identity of that ancestor."""
    obstacle: Obstacle
    failure_class: FailureClass | None


@dataclass(frozen=True, kw_only=True)
class BundleRow:
    """A bundle: the number of its holder among the agents, and how many jobs it still holds.

    AWAY until the last of them was imported (RETIRED), or it was recalled (DEAD).
    """

    id: int
    name: str
    token: str
    state: AgentState
    jobs: int
    packed_at: float


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job as it stands. `progress` counts the optimizer steps of its newest checkpoint."""

    id: int
    identity: str
    kind: str
    cohort_key: str
    cost: float
    content: str
    parent_id: int | None
    state: State
    wanted: bool
    blocked: bool
    alone: bool
    slots_limit: int | None
    attempt: int
    progress: int
    epoch: int
    agent_id: int | None
    failure_class: FailureClass | None
    error: str
    publication: str | None
    model_file: str | None
    model_hash: str | None
    diverged: bool
    registered_at: float
    ended_at: float | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its job, by their flat names."""
        from qsweep.sweeps.job import stored_settings

        return stored_settings(self.content)

    @cached_property
    def job(self) -> Job:
        from qsweep.sweeps.job import Job  # here: `qsweep status` looks at no job

        return Job.from_json(self.content)


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One execution of a job. `outcome` is the state that it left the job in; None while it runs."""

    job_id: int
    attempt: int
    agent_id: int
    host: str
    pid: int
    backend: str
    device: str
    log: str
    started_at: float
    beat_at: float
    ended_at: float | None
    resumed_from: int
    outcome: State | None
    failure_class: FailureClass | None
    error: str
    publication: str | None
    superseded: str | None
    """Why its results no longer count; None while they do."""


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One change of one job."""

    id: int
    job_id: int
    at: float
    source: State
    target: State
    agent_id: int | None
    attempt: int
    detail: str
    cause: str | None = None


class Standing(NamedTuple):
    """Where one job stands: what an audit looks at of a `JobRow`."""

    id: int
    identity: str
    kind: str
    state: State
    attempt: int
    agent_id: int | None
    publication: str | None
    model_file: str | None


class Step(NamedTuple):
    """One change of one job: what an audit looks at of an `EventRow`."""

    id: int
    job_id: int
    source: State
    target: State


@dataclass(frozen=True, kw_only=True)
class Record:
    """All jobs in the order of their registration, and all their events, job after job, at one moment; and the agents
    and bundles that may hold jobs."""

    jobs: list[Standing]
    steps: list[Step]
    holders: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One event with what is now known of its job. `publication` is that of the job's counted result, if any."""

    id: int
    job_id: int
    at: float
    source: State
    target: State
    agent_id: int | None
    attempt: int
    detail: str
    identity: str
    kind: str
    cohort_key: str
    cost: float
    publication: str | None
    diverged: bool
    """Whether the job's counted result is a training that diverged."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """How the jobs of a sweep, or a selection of them, stand, all at one moment."""

    counts: Counts
    work: Mapping[State, float]
    """Estimated operations by state."""
    holders: Mapping[int, int]
    """The agent of each running job."""
    newest: int
    """The registry's newest event."""
    seen: Sequence[int]
    """The numbers of its newest events, in order."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """One done job, with the pointer to its counted result."""

    id: int
    identity: str
    attempt: int
    publication: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which jobs an agent works for: those of a selection, else those of a sweep, else all."""

    sweep: int | None = None
    selection: int | None = None

    @property
    def kind(self) -> str:
        return "selection" if self.selection is not None else "sweep" if self.sweep is not None else "all"


EVERYTHING = Scope()


@dataclass(frozen=True, kw_only=True)
class Head:
    """What an agent should claim next: the cohort of the first claimable job."""

    job_id: int
    cohort_key: str
    job: Job
    alone: bool
    """It crashed in company: run it with every other slot vacant."""
    slots_limit: int | None
    """After running out of memory: the most slots that the engine may have."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One recorded checkpoint of a job."""

    step: int
    epoch: int
    file: str
    checksum: str


@dataclass(frozen=True, kw_only=True)
class ParentModel:
    """The job that a claimed one stands on, with the file that it left, as it stood when that was claimed."""

    identity: str
    attempt: int
    model_file: str | None
    model_hash: str | None
    diverged: bool
    kind: str = TRAIN.name
    parent: ParentModel | None = None
    """The job that it stands on itself."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One job that this agent alone may run, as attempt `attempt`. `checkpoints` has the newest first."""

    job_id: int
    job: Job
    attempt: int
    checkpoints: tuple[Saved, ...] = ()
    alone: bool = False
    slots_limit: int | None = None
    keep_model: bool = True
    """Some sweep asks for the trained model."""
    parent: ParentModel | None = None

    def ancestors(self) -> Iterator[ParentModel]:
        """The jobs above, the nearest first."""
        one = self.parent
        while one is not None:
            yield one
            one = one.parent

    def source(self, file: File) -> ParentModel | None:
        """The nearest job above whose kind leaves such a file."""
        return next((one for one in self.ancestors() if kind_named(one.kind).leaves is file), None)


class Fenced(Protocol):
    """Anything that names one execution of a job: a Claim, a Checkpoint, a Finished."""

    @property
    def job_id(self) -> int: ...
    @property
    def attempt(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that lies complete on the disk and asks to be recorded."""

    job_id: int
    attempt: int
    step: int
    epoch: int
    file: str
    checksum: str
    curve: Sequence[Mapping[str, Any]] = ()
    """The epochs that it holds, as rows of `epochs`, if they are more than when they were told last."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The epochs that a training has done which is not done itself: those of its newest checkpoint."""

    job: str
    state: State
    attempt: int
    """The attempt that told of them."""
    content: str
    epochs: tuple[Mapping[str, Any], ...]

    @cached_property
    def training(self) -> Training:
        from qsweep.sweeps.job import Job

        return Job.from_json(self.content).training


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A result that lies complete in the store and asks to be counted."""

    job_id: int
    attempt: int
    publication: str
    model_file: str | None = None
    model_hash: str | None = None
    diverged: bool = False
    unkept: bool = False
    """Its model was not kept, because no sweep asked for it: does not count if one does by now."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Which jobs passed the fence, and which checkpoint files nobody needs any more.

    `asked`: jobs that are still the agent's, and did not pass since a sweep asks for their `unkept` models by now: to
    be finished again, with the models.
    """

    jobs: frozenset[int]
    deletable: tuple[str, ...] = ()
    asked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The slots and the form of a shape on one device class and build: fixed once recorded.

    `qsweep calibrate` adds what it measured: seconds of one step of a full cohort, and an agent's peak memory in bytes.
    """

    slots: int
    form: str
    seconds: float | None = None
    peak: int | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """A calibration with what it holds for."""

    shape: str
    device: str
    build: str
    slots: int
    form: str
    seconds: float | None = None
    peak: int | None = None


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What an agent that found nothing to claim may wait for.

    `queued`: wanted jobs that wait for a backoff, a parent, or an agent of another precision. `running`:
    jobs that others run, and that may come back; for those in a bundle nobody waits. `delay`: seconds until
    the first backoff ends.
    """

    queued: bool
    running: bool
    delay: float | None

    @property
    def nothing(self) -> bool:
        return not (self.queued or self.running)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The pointer from a job to its counted rows in the result store."""

    job: str
    attempt: int
    publication: str
    kind: Kind = TRAIN


@dataclass(frozen=True, kw_only=True)
class Move:
    """A counted result whose rows now lie in the publication `target` as well as in `source`."""

    job: str
    attempt: int
    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class StoreRow:
    """The results store of a registry: by what it is known again, and where it lay at the last launch."""

    identity: str
    place: str
    host: str
    """The machine of a folder; empty for a URL."""
    lineage: tuple[str, ...] = ()
    """The incarnations of the registry, the newest first: one is drawn whenever it lies elsewhere than before."""
    seat: str = ""
    """Where the registry was at its last launch, as `db.seats` writes it."""

    @property
    def incarnation(self) -> str:
        """The newest one; empty before the first launch."""
        return self.lineage[0] if self.lineage else ""
