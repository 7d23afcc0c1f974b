"""The progress of a running sweep: one line of figures and the running averages by precision."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.terminal import tell
from reports.table import PRECISION_ORDER, precision_name
from sweeps.job import Job

AVERAGES = (
    ("train_loss", "train loss", 1.0, 4),
    ("test_loss", "test loss", 1.0, 4),
    ("generalization_gap", "gap", 1.0, 4),
    ("test_accuracy", "test acc. %", 100.0, 2),
)
"""Columns of the running averages: result, label, scale, decimals."""


@dataclass
class Progress:
    """What is known of a running sweep, updated from the registry and the results."""

    jobs: Mapping[str, Job]
    started: float = field(default_factory=time.monotonic)
    done: set[str] = field(default_factory=set)
    at_start: int | None = None
    running: int = 0
    failed: int = 0
    queued: int = 0
    away: int = 0
    """Held by bundles: nobody here waits for them."""
    partial: float = 0.0
    """Operations done by cohorts that still run."""
    averages: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    _spent: float = 0.0
    _partial_at_start: float = 0.0

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

    def add_notes(self, notes: Sequence[str]) -> None:
        """Take in what the agents say that they are doing."""
        cost = {job.cohort_key: job.cost for job in self.jobs.values()}
        self.partial = 0.0
        for text in notes:
            note = json.loads(text) if text else {}
            if note.get("cohort") in cost:
                self.partial += cost[note["cohort"]] * note["jobs"] * note["step"] / note["steps"]

    def mark_start(self) -> None:
        """What is done so far was done before this launch."""
        self.at_start = len(self.done)
        self._spent = self._cost_done()
        self._partial_at_start = self.partial

    def _cost_done(self) -> float:
        return sum(self.jobs[identity].cost for identity in self.done if identity in self.jobs)

    @property
    def total(self) -> int:
        return len(self.jobs)

    @property
    def rate(self) -> float:
        """Models finished a minute since the launch."""
        return 60 * (len(self.done) - (self.at_start or 0)) / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float:
        """From the operations done since the launch and those left; NaN before anything is done."""
        total = sum(job.cost for job in self.jobs.values())
        done = self._cost_done() + self.partial
        since = done - self._spent - self._partial_at_start
        if since <= 0:
            return math.nan
        return max(total - done, 0.0) / since * (time.monotonic() - self.started)

    def summary(self) -> str:
        """One line."""
        left = "unknown" if math.isnan(self.seconds_left) else duration(self.seconds_left)
        return (
            f"{len(self.done)}/{self.total} done, {self.running} running, {self.queued} queued, {self.failed} failed"
            f"{f', {self.away} away in bundles' if self.away else ''}"
            f" · {self.rate:.0f} models/min · {left} left"
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 10 s`, `5 h 12 min`, `6 d 3 h`."""
    whole = round(seconds)
    for unit, size, lower, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


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


class Display:
    """Shows progress: live on a terminal, else a plain line from time to time."""

    PLAIN_EVERY = 15.0

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._said = -math.inf

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if self._live:
            bar = ProgressBar(total=progress.total, completed=len(progress.done), width=min(self.console.width, 80))
            end_of_bar = Text("")  # a ProgressBar does not end its line
            summary = Text(progress.summary())
            self._live.update(Group(Text(self.title, style="bold"), bar, end_of_bar, summary, averages_table(progress)))
        elif last or time.monotonic() - self._said >= self.PLAIN_EVERY:
            self._said = time.monotonic()
            tell(self.console, f"{self.title}: {progress.summary()}")
