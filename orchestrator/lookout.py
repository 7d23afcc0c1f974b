"""What is to be seen of a sweep from outside, look after look. Nothing is changed, and no look takes long."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsweep.db.losses import read_sound
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults, table_of
from qsweep.db.rows import AgentRow, Blocked, Change, Committed, Counts, Curve, Done, Sweep
from qsweep.db.states import AgentState, State
from qsweep.orchestrator.lost_jobs import Losses, find_losses, lost_agents
from qsweep.reports.table import precision_name
from qsweep.sweeps.kinds import kind_named

METRICS = ("train_loss", "test_loss", "generalization_gap", "test_accuracy")
WINDOW = 600.0
"""Seconds back to which a throughput counts."""
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


@dataclass
class Mean:
    """Running sums of a precision's finished models."""

    models: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))

    def add(self, row: Mapping[str, Any]) -> None:
        self.models += 1
        for name in METRICS:
            self.sums[name] += float(row[name])

    def of(self, name: str) -> float:
        return self.sums[name] / self.models


@dataclass(frozen=True, kw_only=True)
class View:
    """One look. `known` of the done trainings are in the means so far; `rate` is in jobs per minute over the last
    `window` seconds; `seconds_left` is None where nothing tells."""

    at: float
    sweep: Sweep
    counts: Counts
    means: Mapping[str, Mean]
    known: int
    rate: float
    window: float
    seconds_left: float | None
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
        """Nothing runs, and nothing waits that could."""
        return self.still_open == 0

    @property
    def still_open(self) -> int:
        """Jobs that run, or wait and can run as things stand."""
        return self.counts.queued + self.counts.running - sum(one.jobs for one in self.blocked)

    @property
    def missing(self) -> int:
        """Jobs that the sweep spans and nobody has registered."""
        return max(self.sweep.size - self.counts.total, 0)


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
        self._work: deque[tuple[float, float]] = deque()
        self._forget()

    def _forget(self) -> None:
        """Begin the means anew."""
        self._means: dict[str, Mean] = {}
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
        within, window = lately(recent, self._wall())
        return View(
            at=self._wall(),
            sweep=sweep,
            counts=counts,
            means=self._means,
            known=self._known,
            rate=60 * sum(change.target is State.DONE for change in within) / window,
            window=window,
            seconds_left=self._seconds_left(recent, [agent for agent in agents if agent.id not in lost]),
            agents=agents,
            losses=find_losses(self._registry, self._sweep_id, lost),
            lost=frozenset(lost),
            blocked=self._registry.blocked(self._sweep_id) if counts.queued else (),
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
        columns = ["bits", "diverged", *METRICS]
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
        for row in rows:
            if not row["diverged"] and all(row[name] is not None for name in METRICS):
                self._means.setdefault(precision_name(row["bits"]), Mean()).add(row)

    def _seconds_left(self, recent: Sequence[Change], agents: Sequence[AgentRow]) -> float | None:
        """By the operations done since the first look, or at first by those of the jobs that ended lately."""
        work = self._registry.work(self._sweep_id)
        partial = partial_work(agents, recent, self._registry.held(self._sweep_id))
        done = work[State.DONE] + partial
        left = max(work[State.QUEUED] + work[State.RUNNING] - partial, 0.0)
        self._work.append((self._clock(), done))
        while self._work[-1][0] - self._work[0][0] > WINDOW:
            self._work.popleft()
        (then, before), (now, after) = self._work[0], self._work[-1]
        if now - then < SETTLED or after <= before:
            within, span = lately(recent, self._wall())
            before, after = 0.0, sum(change.cost for change in within if change.target is State.DONE)
            then, now = 0.0, span
        if not left:
            return None if work[State.QUEUED] + work[State.RUNNING] else 0.0
        return left / (after - before) * (now - then) if after > before else None


def lately(recent: Sequence[Change], now: float) -> tuple[list[Change], float]:
    """The changes of the last WINDOW seconds, and how many seconds they span until now."""
    within = [change for change in recent if now - change.at <= WINDOW]
    return within, max(now - within[-1].at, 1.0) if within else WINDOW


def partial_work(agents: Sequence[AgentRow], recent: Sequence[Change], held: Mapping[int, int]) -> float:
    """Operations that running cohorts have done, as far as a job of theirs is among the newest events.

    `held`: how many jobs of the sweep each agent has. A note may be older than these.
    """
    costs = {change.cohort_key: change.cost for change in recent}
    notes = [(note_of(agent), held.get(agent.id, 0)) for agent in agents]
    return math.fsum(
        costs[note["cohort"]] * min(note["jobs"], mine) * min(note["step"] / max(note["steps"], 1), 1.0)
        for note, mine in notes
        if note.get("cohort") in costs
    )


def _pointer(one: Change | Done) -> Committed:
    assert one.publication is not None
    return Committed(job=one.identity, attempt=one.attempt, publication=one.publication, kind=kind_named(one.kind))


def note_of(agent: AgentRow) -> dict[str, Any]:
    """What an agent says that it does: `cohort`, `jobs`, `step`, `steps`; empty before it says anything."""
    note: dict[str, Any] = json.loads(agent.note) if agent.note else {}
    return note
