"""What a launch knows of its jobs, look after look; and the running averages of what is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qsweep.db.progress import Progress, Speed, partial_work
from qsweep.db.rows import Counts
from qsweep.db.states import State
from qsweep.reports.quantization import Quantization, quantization_of

AVERAGES = (
    ("train_loss", "train loss", 1.0, 4),
    ("test_loss", "test loss", 1.0, 4),
    ("generalization_gap", "gap", 1.0, 4),
    ("test_accuracy", "test acc. %", 100.0, 2),
)
"""What is averaged: result, label, scale, decimals."""
METRICS = tuple(name for name, *_ in AVERAGES)
NOTHING: Mapping[str, float] = {}


@dataclass
class Mean:
    """Running sums of finished models that are called alike."""

    models: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))

    def of(self, name: str) -> float:
        return self.sums[name] / self.models


class Means(dict[Quantization, Mean]):
    """The running averages of models that are called alike."""

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the results of trainings that are done; one that diverged has none to average."""
        for row in rows:
            if row["diverged"] or any(row.get(name) is None for name in METRICS):
                continue
            mean = self.setdefault(quantization_of(row), Mean())
            mean.models += 1
            for name in METRICS:
                mean.sums[name] += float(row[name])


class Seldom:
    """An answer that may cost much: asked for again only when a hundred times the processor time has passed that it
    took the last time. What costs little is asked for each time."""

    LITTLE = 0.01
    """Seconds of processor time."""
    TIMES = 100

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._not_before = -math.inf

    def is_due(self) -> bool:
        """Whether to ask now."""
        return self._clock() >= self._not_before

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around the question."""
        began = time.thread_time()
        yield
        took = time.thread_time() - began
        self._not_before = self._clock() + (self.TIMES * took if took > self.LITTLE else 0.0)


class Tally:
    """How far the jobs are that a launch waits for. `size` is that of the whole sweep."""

    def __init__(self, *, size: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self.means = Means()
        self._speed = Speed(clock)

    def mark_start(self) -> None:
        """What is done so far was done before this launch."""
        done = self._speed.done
        self._speed.restart()
        self._speed.look(done)

    def look(
        self,
        counts: Counts,
        work: Mapping[State, float],
        *,
        cohorts: Mapping[str, float] = NOTHING,
        blocked: int = 0,
        notes: Iterable[tuple[str, int]] = (),
    ) -> Progress:
        """How far the jobs are by these counts, the work in each state, and by what agents say, with the jobs of these
        that each holds; `cohorts` has the work of one job of each."""
        self._speed.look(work[State.DONE] + partial_work(notes, cohorts))
        lately, seconds = self._speed.lately()
        total = math.fsum(work.values())
        return Progress(
            counts=counts,
            blocked=blocked,
            size=self.size,
            work=total,
            left=max(total - self._speed.done, 0.0),
            lately=lately,
            seconds=seconds,
        )
