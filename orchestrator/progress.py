"""The progress of a running sweep: one line of figures and the running averages by precision."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qsweep.orchestrator.layout import duration, tell
from qsweep.reports.screen import paragraph
from qsweep.reports.table import PRECISION_ORDER, precision_name
from qsweep.sweeps.job import Job

AVERAGES = (
    ("train_loss", "train loss", 1.0, 4),
    ("test_loss", "test loss", 1.0, 4),
    ("generalization_gap", "gap", 1.0, 4),
    ("test_accuracy", "test acc. %", 100.0, 2),
)
"""Columns of the running averages: result, label, scale, decimals."""


WINDOW = 600.0
"""Seconds back to which the speed counts."""


@dataclass
class Progress:
    """What is known of a running sweep, updated from the registry and the results."""

    jobs: Mapping[str, Job]
    clock: Callable[[], float] = time.monotonic
    done: set[str] = field(default_factory=set)
    running: int = 0
    failed: int = 0
    queued: int = 0
    away: int = 0
    """Held by bundles: nobody here waits for them."""
    blocked: int = 0
    """Queued, and can't run as things stand: nobody waits for them either."""
    size: int = 0
    """Jobs of the whole sweep, if this is a part of it."""
    partial: float = 0.0
    """Operations done by cohorts that still run."""
    averages: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    _looks: deque[tuple[float, float]] = field(default_factory=deque)
    """When it was looked, and the operations that were done by then."""
    _summed: tuple[int, float] = (0, 0.0)
    """How many jobs were done when their operations were summed up, and the sum."""

    def add_results(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Take in the rows of jobs that have finished."""
        for row in rows:
            self.done.add(str(row["job"]))
            if row["diverged"] or any(row[column] is None for column, *_ in AVERAGES):
                continue
            for column, _, _, _ in AVERAGES:
                value = row[column]
                if isinstance(value, int | float):
                    self.averages[precision_name(int(str(row["bits"])))][column].append(float(value))

    def add_notes(self, notes: Iterable[tuple[str, int]]) -> None:
        """Take in what the agents say that they are doing, with the jobs of these that each of them holds."""
        now = 0.0
        for text, held in notes:
            note = json.loads(text) if text else {}
            if note.get("cohort") in self._cohorts:
                share = min(note["step"] / max(note["steps"], 1), 1.0)
                now += self._cohorts[note["cohort"]] * min(note["jobs"], held) * share
        self.partial = now

    def look(self) -> None:
        """Remember how much is done now: the speed is that of the last WINDOW seconds.

        A cohort that ended between two looks, and whose results are still to come, takes nothing back.
        """
        now = self.clock()
        done = max(self._cost_done() + self.partial, self._looks[-1][1] if self._looks else 0.0)
        self._looks.append((now, done))
        while now - self._looks[0][0] > WINDOW and len(self._looks) > 2:
            self._looks.popleft()

    def mark_start(self) -> None:
        """What is done so far was done before this launch."""
        self._looks.clear()
        self.look()

    def _cost_done(self) -> float:
        if self._summed[0] != len(self.done):
            cost = math.fsum(self._costs[identity] for identity in self.done if identity in self._costs)
            self._summed = len(self.done), cost
        return self._summed[1]

    @cached_property
    def _costs(self) -> dict[str, float]:
        """The operations of each job."""
        return {identity: job.cost for identity, job in self.jobs.items()}

    @cached_property
    def _cohorts(self) -> dict[str, float]:
        """The operations of a job of each cohort."""
        return {job.cohort_key: job.cost for job in self.jobs.values()}

    @cached_property
    def _whole(self) -> float:
        """The operations of all jobs."""
        return math.fsum(self._costs.values())

    @property
    def total(self) -> int:
        return len(self.jobs)

    @property
    def rate(self) -> float:
        """Jobs finished per minute since the launch, those that run by the part of them that is done."""
        since = self._since()
        mean = self._whole / max(self.total, 1)
        return 60 * since[1] / max(since[0], 1e-9) / mean if mean else 0.0

    @property
    def share(self) -> float:
        """How much of the operations is done."""
        return min(self._looks[-1][1] / self._whole, 1.0) if self._whole and self._looks else 0.0

    @property
    def seconds_left(self) -> float:
        """From the operations done lately, running jobs' among them, and those left; NaN where nothing tells."""
        seconds, since = self._since()
        if since <= 0 or (self._looks[-1][1] >= self._whole and self.running + self.queued):
            return math.nan
        return max(self._whole - self._looks[-1][1], 0.0) / since * seconds

    def _since(self) -> tuple[float, float]:
        """Seconds, and operations done in them, over the window."""
        if not self._looks:
            return 0.0, 0.0
        (then, before), (now, after) = self._looks[0], self._looks[-1]
        return now - then, after - before

    def summary(self) -> str:
        """One line."""
        seconds = self.seconds_left
        return (
            f"{len(self.done)}/{self.total} done, {self.running} running, {self.queued} queued, {self.failed} failed"
            f"{f', {self.blocked} blocked' if self.blocked else ''}"
            f"{f', {self.away} checked out to bundles' if self.away else ''}"
            f"{f' (of {self.size} in the sweep)' if self.size > self.total else ''}"
            f" · {rate_text(self.rate)}"
            f" · {time_left(None if math.isnan(seconds) else seconds, self.running + self.queued)}"
        )


def rate_text(rate: float) -> str:
    """A throughput in jobs per minute: with one decimal where it is small."""
    return f"{rate:.0f} jobs/min" if rate >= 10 else f"{rate:.1f} jobs/min"


def time_left(seconds: float | None, still_open: int) -> str:
    """What is known of the time left while so many jobs are open: never 0 s."""
    if not still_open:
        return "complete"
    if seconds is None:
        return "time left: unknown"
    return f"time left: about {duration(max(seconds, 1.0))}"


def averages_table(progress: Progress) -> Table:
    """Running averages by precision."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("precision")
    table.add_column("models", justify="right")
    for _, label, _, _ in AVERAGES:
        table.add_column(label, justify="right")
    for precision in PRECISION_ORDER:
        if values := progress.averages.get(precision):
            means = [
                f"{scale * math.fsum(values[name]) / len(values[name]):.{digits}f}"
                for name, _, scale, digits in AVERAGES
            ]
            table.add_row(precision, str(len(values[AVERAGES[0][0]])), *means)
    return table


class Rhythm:
    """When a plain line of progress is due: at once, for each tenth of the work, and between them ever more rarely."""

    FIRST, LONGEST = 15.0, 600.0
    """Seconds until the second line; each pause is twice the one before, up to the longest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = -math.inf
        self._pause = self.FIRST
        self._tenths = 0

    def is_due(self, share: float) -> bool:
        """Whether to say now that this share of the work is done; then it counts as said."""
        now, tenths = self._clock(), int(10 * share)
        if tenths <= self._tenths and now - self._said < self._pause:
            return False
        if tenths <= self._tenths and self._said > -math.inf:
            self._pause = min(2 * self._pause, self.LONGEST)
        self._said, self._tenths = now, tenths
        return True


class Display:
    """Shows progress: live on a terminal, else plain lines."""

    def __init__(self, console: Console, title: str, rhythm: Rhythm | None = None) -> None:
        self.console = console
        self.title = title
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._rhythm = rhythm or Rhythm()

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if self._live:
            bar = ProgressBar(total=1.0, completed=progress.share, width=min(self.console.width, 80))
            end_of_bar = Text("")  # a ProgressBar does not end its line
            summary = Text("\n".join(paragraph(progress.summary(), self.console.width)))
            picture = Group(Text(self.title, style="bold"), bar, end_of_bar, summary, averages_table(progress))
            self._live.update(picture, refresh=True)
        elif self._rhythm.is_due(len(progress.done) / max(progress.total, 1)) or last:
            tell(self.console, f"{self.title}: {progress.summary()}")
