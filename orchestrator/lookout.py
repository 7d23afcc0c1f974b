"""What is to be seen of a sweep from outside, look after look. Nothing is changed, and no look takes long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from qsweep.db.following import Follower
from qsweep.db.losses import read_sound
from qsweep.db.progress import WINDOW, Progress, Speed, partial_work
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults, table_of
from qsweep.db.rows import AgentRow, Blocked, Change, Committed, Counts, Curve, Done, Sweep
from qsweep.db.states import AgentState, State
from qsweep.orchestrator.lost_jobs import Losses, losses_of, lost_agents
from qsweep.orchestrator.progress import METRICS, Means, Seldom
from qsweep.reports.quantization import NAMED_BY, Quantization, quantization_of
from qsweep.sweeps.kinds import kind_named

SETTLED = 20.0
"""Seconds of watching after which the speed is the one that was seen."""
SHOWN = 1_000
"""Newest changes that a look hands on."""
RECHECK = 10.0
"""Seconds after which it is asked again what keeps jobs from running, even if nothing has changed."""
TRIES = 3
"""How often one look reads anew what has vanished or is damaged; at last it goes on without."""
PART = 500
"""Jobs whose results are read at once …"""
PATIENCE = 0.3
"""… until a look has taken these seconds; the next one goes on."""


@dataclass(frozen=True, kw_only=True)
class Fall:
    """How the training loss of trainings that are called alike, and are not done, fell: the mean of each epoch."""

    called: Quantization
    trainings: int
    epochs: int
    """Of the longest of them, when it will be done."""
    losses: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class View:
    """One look. `known` of the done trainings are in the means so far."""

    at: float
    sweep: Sweep
    progress: Progress
    means: Means
    known: int
    agents: Sequence[AgentRow]
    """Those that live; `lost` has those of them whose lease ran out or whose process is gone."""
    losses: Losses
    lost: frozenset[int]
    blocked: Sequence[Blocked]
    curves: Sequence[Curve]
    """The epochs so far of trainings that are not done."""
    falls: Sequence[Fall]
    recent: Sequence[Change]
    held: Mapping[int, int] = field(default_factory=dict)
    """How many jobs each agent holds, of whatever sweep."""
    stopped: Sequence[AgentRow] = ()
    """Those that only failed since the sweep was launched."""
    unreadable: int = 0
    """Trainings whose results can't be read."""

    @property
    def is_over(self) -> bool:
        """Nothing runs, here or in a bundle, and nothing waits that could."""
        return self.progress.still_open + self.progress.counts.away == 0


class Lookout:
    """Looks at one sweep. The means of what was done before the first look are read in parts, look by look."""

    def __init__(
        self,
        registry: Registry,
        results: ResultStore,
        sweep: Sweep,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._results, self._title = registry, results, sweep.title
        self._sweep_id = sweep.id
        self._wall, self._clock = wall, clock
        self._vanished = self._damaged = False
        """Whether files were gone at the last look, and whether to go on without what is lost."""
        self._speed = Speed(clock)
        self._asking_blocked, self._asking_curves, self._asking_held = (Seldom(clock) for _ in range(3))
        self._blocked: Sequence[Blocked] = ()
        self._blocked_until = -math.inf
        self._curves: Sequence[Curve] = ()
        self._falls: Sequence[Fall] = ()
        self._called: dict[str, tuple[Quantization, int]] = {}
        self._of_all: Mapping[int, int] = {}
        self._follower = Follower(registry, sweep.id, clock=clock)
        self._forget()

    def _forget(self) -> None:
        """Begin the means anew, and the speed."""
        self._means = Means()
        self._speed.restart()
        self._known = 0
        self._lost: set[str] = set()
        self._unread: list[Change] = []
        self._after = 0
        self._taken = bytearray()
        self._complete = False

    def look(self) -> View:
        """What there is to see now."""
        sweep = self._registry.catalogue.find_sweep(self._title)
        follower = self._follower
        changes = follower.look()
        if any(change.source is State.DONE for change in changes):  # superseded: the sums have to shrink
            self._forget()
        self._unread += [one for one in changes if one.target is State.DONE and one.publication]
        counts, held = follower.counts, follower.held
        agents = self._registry.catalogue.agents()
        lost = lost_agents(agents)
        self._take_in()
        losses = losses_of(lost, held)
        blocked = self._seen_blocked(changes, counts)
        notes = [(agent.note, held.get(agent.id, 0)) for agent in agents if agent.id not in lost]
        partial = partial_work(notes, follower.cohorts)
        lately, seconds = self._lately(follower.work[State.DONE] + partial, follower.recent)
        return View(
            at=self._wall(),
            sweep=sweep,
            progress=Progress(
                counts=counts,
                lost=losses.jobs,
                blocked=sum(one.jobs for one in blocked),
                size=sweep.size,
                work=math.fsum(follower.work.values()),
                left=max(follower.work[State.QUEUED] + follower.work[State.RUNNING] - partial, 0.0),
                lately=lately,
                seconds=seconds,
            ),
            means=self._means,
            known=self._known,
            agents=agents,
            losses=losses,
            lost=frozenset(lost),
            blocked=blocked,
            curves=self._seen_curves(counts),
            falls=self._falls,
            recent=tuple(islice(follower.recent, SHOWN)),
            held=self._held(agents),
            stopped=[
                one
                for one in self._registry.catalogue.agents(AgentState.STOPPED)
                if one.enlisted_at >= sweep.launched_at
            ],
            unreadable=len(self._lost),
        )

    def _seen_blocked(self, changes: Sequence[Change], counts: Counts) -> Sequence[Blocked]:
        if not counts.queued:
            self._blocked = ()
        elif self._asking_blocked.is_due() and (changes or self._clock() >= self._blocked_until):
            with self._asking_blocked.asking():
                self._blocked = self._registry.sweeps.blocked(self._sweep_id)
            self._blocked_until = self._clock() + RECHECK
        return self._blocked

    def _seen_curves(self, counts: Counts) -> Sequence[Curve]:
        if not counts.queued + counts.running:
            self._curves, self._falls = (), ()
        elif self._asking_curves.is_due():
            with self._asking_curves.asking():
                self._curves = self._registry.history.curves(self._sweep_id)
                self._falls = self._summed(self._curves)
        return self._curves

    def _summed(self, curves: Iterable[Curve]) -> Sequence[Fall]:
        """What the trainings of these curves are called is found once for each."""
        known, self._called = self._called, {}
        groups: dict[Quantization, list[Curve]] = {}
        for curve in curves:
            if (called := known.get(curve.job)) is None:
                training = curve.training
                called = quantization_of(training.settings()), training.recipe.epochs
            self._called[curve.job] = called
            groups.setdefault(called[0], []).append(curve)
        return [
            Fall(
                called=one,
                trainings=len(groups[one]),
                epochs=max(self._called[curve.job][1] for curve in groups[one]),
                losses=mean_losses(groups[one]),
            )
            for one in sorted(groups)
        ]

    def _held(self, agents: Sequence[AgentRow]) -> Mapping[int, int]:
        """How many jobs of whatever sweep agents hold, if any of them says nothing of what it does."""
        if all(one.note for one in agents):
            self._of_all = {}
        elif self._asking_held.is_due():
            with self._asking_held.asking():
                self._of_all = self._registry.agents.held()
        return self._of_all

    def _take_in(self) -> None:
        """Results of jobs that have finished since the last look, then of older ones while patience lasts."""
        for _ in range(TRIES):
            try:
                self._take_in_more()
                return
            except VanishedResults:  # compacted since the pointers were read; if it happens again, they are lost
                self._vanished, self._damaged = True, self._vanished
            except DamagedResults:
                self._damaged = True
            self._forget()

    def _take_in_more(self) -> None:
        deadline = self._clock() + PATIENCE
        self._add([(one.job_id, _pointer(one)) for one in self._unread])
        self._unread = []
        while not self._complete:
            part = self._registry.history.done_after(self._sweep_id, self._after, PART)
            self._add([(one.id, _pointer(one)) for one in part])
            self._after = part[-1].id if part else self._after
            self._complete = len(part) < PART
            if self._clock() >= deadline:
                break

    def _add(self, done: Sequence[tuple[int, Committed]]) -> None:
        """Take the results of these trainings into the means, each once."""
        highest = max((number for number, _ in done), default=0)
        self._taken.extend(bytes(max(highest + 1 - len(self._taken), 0)))
        fresh = [(number, one) for number, one in done if "runs" in one.kind.rows and not self._taken[number]]
        columns = [*NAMED_BY, "diverged", *METRICS]
        pointers = table_of(one for _, one in fresh)
        if self._damaged:
            table, lost = read_sound(self._results, "runs", pointers, columns)
            self._lost |= {one.job for one in lost}
        else:
            table = self._results.read("runs", pointers, columns=columns)
        rows = table.to_pylist()
        for number, _ in fresh:
            self._taken[number] = 1
        self._known += len(rows)
        self._means.add(rows)

    def _lately(self, done: float, recent: Iterable[Change]) -> tuple[float, float]:
        """Work done and the seconds it took: since the first look, or at first that of the jobs that ended lately."""
        self._speed.look(done)
        work, seconds = self._speed.lately()
        if seconds >= SETTLED and work > 0:
            return work, seconds
        now = self._wall()
        within = list(takewhile(lambda change: now - change.at <= WINDOW, recent))
        seconds = max(now - within[-1].at, 1.0) if within else WINDOW
        return sum(change.cost for change in within if change.target is State.DONE), seconds


def _pointer(one: Change | Done) -> Committed:
    assert one.publication is not None
    return Committed(job=one.identity, attempt=one.attempt, publication=one.publication, kind=kind_named(one.kind))


def mean_losses(curves: Sequence[Curve]) -> list[float | None]:
    """The mean training loss of each epoch, over the trainings that have done it; None where none was finite."""
    found: list[float | None] = []
    for epoch in range(max(len(curve.epochs) for curve in curves)):
        values = [curve.epochs[epoch]["train_loss"] for curve in curves if len(curve.epochs) > epoch]
        finite = [value for value in values if value is not None]
        found.append(math.fsum(finite) / len(finite) if finite else None)
    return found
