"""What a launch knows of its jobs, look after look; and the running averages of what is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qsweep.db.progress import Progress, Speed, partial_work
from qsweep.db.rows import Counts
from qsweep.reports.quantization import Quantization, quantization_of
from qsweep.sweeps.job import Job

AVERAGES = (
    ("train_loss", "train loss", 1.0, 4),
    ("test_loss", "test loss", 1.0, 4),
    ("generalization_gap", "gap", 1.0, 4),
    ("test_accuracy", "test acc. %", 100.0, 2),
)
"""What is averaged: result, label, scale, decimals."""
METRICS = tuple(name for name, *_ in AVERAGES)


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


class Tally:
    """The jobs that a launch waits for. `size` is that of the whole sweep."""

    def __init__(self, jobs: Mapping[str, Job], *, size: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs = jobs
        self.size = size
        self.done: set[str] = set()
        self.means = Means()
        self._speed = Speed(clock)
        self._costs = {identity: job.cost for identity, job in jobs.items()}
        self._cohorts = {job.cohort_key: job.cost for job in jobs.values()}
        self._work = math.fsum(self._costs.values())
        self._summed = 0, 0.0
        """How many jobs were done when their operations were summed up, and the sum."""

    def mark_start(self) -> None:
        """What is done so far was done before this launch."""
        done = self._speed.done
        self._speed.restart()
        self._speed.look(done)

    def look(self, counts: Counts, *, blocked: int = 0, notes: Iterable[tuple[str, int]] = ()) -> Progress:
        """How far the jobs are by these counts, and by what agents say, with the jobs of these that each holds."""
        self._speed.look(self._work_done() + partial_work(notes, self._cohorts))
        lately, seconds = self._speed.lately()
        return Progress(
            counts=counts,
            blocked=blocked,
            size=self.size,
            work=self._work,
            left=max(self._work - self._speed.done, 0.0),
            lately=lately,
            seconds=seconds,
        )

    def _work_done(self) -> float:
        if self._summed[0] != len(self.done):
            cost = math.fsum(self._costs[identity] for identity in self.done if identity in self._costs)
            self._summed = len(self.done), cost
        return self._summed[1]
