"""What is to be seen of a sweep from outside, look after look. Nothing is changed, and no look takes long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qsweep.db.losses import read_sound
from qsweep.db.progress import WINDOW, Progress, Speed, partial_work
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults, table_of
from qsweep.db.rows import AgentRow, Blocked, Change, Committed, Curve, Done, Sweep
from qsweep.db.states import AgentState, State
from qsweep.orchestrator.lost_jobs import Losses, find_losses, lost_agents
from qsweep.orchestrator.progress import METRICS, Means
from qsweep.reports.quantization import NAMED_BY
from qsweep.sweeps.kinds import kind_named

SETTLED = 20.0
"""Seconds of watching after which the speed is the one that was seen."""
CHANGES = 5_000
"""Most events that one look takes in."""
TRIES = 3
"""How often one look reads anew what has vanished or is damaged; at last it goes on without."""
PART = 500
"""Jobs whose results are read at once …"""
PATIENCE = 0.3
"""… until a look has taken these seconds; the next one goes on."""


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
        self._forget()

    def _forget(self) -> None:
        """Begin the means anew, and the speed."""
        self._means = Means()
        self._speed.restart()
        self._known = 0
        self._lost: set[str] = set()
        self._mark = self._registry.newest_event()
        self._after = 0
        self._taken = bytearray()
        self._complete = False

    def look(self) -> View:
        """What there is to see now."""
        sweep = self._registry.find_sweep(self._title)
        counts, agents = self._registry.counts(self._sweep_id), self._registry.agents()
        lost = lost_agents(agents)
        recent = self._registry.recent_changes(self._sweep_id, CHANGES)
        self._take_in()
        losses = find_losses(self._registry, self._sweep_id, lost)
        blocked = self._registry.blocked(self._sweep_id) if counts.queued else ()
        work, held = self._registry.work(self._sweep_id), self._registry.held(self._sweep_id)
        notes = [(agent.note, held.get(agent.id, 0)) for agent in agents if agent.id not in lost]
        partial = partial_work(notes, {change.cohort_key: change.cost for change in recent})
        lately, seconds = self._lately(work[State.DONE] + partial, recent)
        return View(
            at=self._wall(),
            sweep=sweep,
            progress=Progress(
                counts=counts,
                lost=losses.jobs,
                blocked=sum(one.jobs for one in blocked),
                size=sweep.size,
                work=math.fsum(work.values()),
                left=max(work[State.QUEUED] + work[State.RUNNING] - partial, 0.0),
                lately=lately,
                seconds=seconds,
            ),
            means=self._means,
            known=self._known,
            agents=agents,
            losses=losses,
            lost=frozenset(lost),
            blocked=blocked,
            curves=self._registry.curves(self._sweep_id) if counts.queued + counts.running else (),
            recent=recent,
            held=self._registry.held() if any(not one.note for one in agents) else {},
            stopped=[one for one in self._registry.agents(AgentState.STOPPED) if one.enlisted_at >= sweep.launched_at],
            unreadable=len(self._lost),
        )

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
        changes = self._registry.changes(self._sweep_id, since=self._mark, limit=CHANGES)
        if any(change.source is State.DONE for change in changes):  # superseded: the sums have to shrink
            self._forget()
            return
        self._add([(one.job_id, _pointer(one)) for one in changes if one.target is State.DONE and one.publication])
        self._mark = changes[-1].id if changes else self._mark
        while not self._complete:
            part = self._registry.done_after(self._sweep_id, self._after, PART)
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

    def _lately(self, done: float, recent: Sequence[Change]) -> tuple[float, float]:
        """Work done and the seconds it took: since the first look, or at first that of the jobs that ended lately."""
        self._speed.look(done)
        work, seconds = self._speed.lately()
        if seconds >= SETTLED and work > 0:
            return work, seconds
        now = self._wall()
        within = [change for change in recent if now - change.at <= WINDOW]
        seconds = max(now - within[-1].at, 1.0) if within else WINDOW
        return sum(change.cost for change in within if change.target is State.DONE), seconds


def _pointer(one: Change | Done) -> Committed:
    assert one.publication is not None
    return Committed(job=one.identity, attempt=one.attempt, publication=one.publication, kind=kind_named(one.kind))
