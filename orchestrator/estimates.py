"""How long a cohort will take on a class of devices, and what that figure rests on."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from qsweep.db.rows import Calibration
from qsweep.orchestrator.basis import Basis
from qsweep.reports.speeds import Ran
from qsweep.sweeps.job import Job
from qsweep.workers.forms import fills_slots

CPU_OPERATION = 1 / 5.8e10
"""Seconds of an operation of large nets on one core, where nothing was measured: the README's NiN 2x8 at CIFAR size."""
CPU_IMAGE = 5e-6
"""Seconds that an image costs beside its operations: the rest of what the README's NiN 3x10 at digits size takes."""
GPU_OPERATION = 1 / 4e12
"""Seconds of an operation on a GPU, where nothing was measured: the paper's own speed on an A100."""


NEAR = 10.0
"""Times as much work per image, or as little, from which a speed may be scaled."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one cohort on one agent."""

    seconds: float
    basis: Basis


class Speeds:
    """What the cohorts that ran on this class of devices tell about those to come.

    A vacant slot costs nearly as much as one in use, so that a cohort takes what its slots take, however many
    members it has; where it costs nothing (`workers.forms.fills_slots`), the time is that of all slots in use. On one
    shape the time grows with the work of a job. From one shape to another it is scaled by the counted operations of all
    slots, from the shape that is nearest in work per image, if that is within a factor NEAR: a device comes nearer to
    its limit with large nets, so tiny ones tell nothing about them.
    """

    def __init__(self, ran: Iterable[Ran], device: str) -> None:
        self._guess = (GPU_OPERATION, 0.0) if device.startswith("cuda") else (CPU_OPERATION, CPU_IMAGE)
        by_key: dict[tuple[str, int], list[float]] = defaultdict(list)
        by_shape: dict[tuple[str, int], list[float]] = defaultdict(list)
        by_work: dict[tuple[str, float], list[float]] = defaultdict(list)
        for one in ran:
            if one.device == device and one.seconds > 0 and one.job.kind.of_user:
                by_key[one.job.cohort_key, 1].append(one.seconds / one.members)
            elif one.device == device and one.seconds > 0:
                seconds = one.seconds * _slots_for_members(one)
                by_key[one.job.cohort_key, one.slots].append(seconds)
                by_shape[one.job.shape, one.slots].append(seconds / one.job.cost)
                by_work[one.job.kind.name, _work(one.job)].append(seconds / one.job.cost / one.slots)
        self._by_key = {key: statistics.median(values) for key, values in by_key.items()}
        self._by_shape = {key: statistics.median(values) for key, values in by_shape.items()}
        self._by_work = {key: statistics.median(values) for key, values in by_work.items()}

    def estimate(self, job: Job, slots: int, calibration: Calibration | None = None) -> Estimate:
        """The time of a cohort of jobs like this one in that many slots, of which a calibration timed some steps."""
        if seconds := self._by_key.get((job.cohort_key, slots)):
            return Estimate(seconds=seconds, basis=Basis.MEASURED)
        if rate := self._by_shape.get((job.shape, slots)):
            return Estimate(seconds=rate * job.cost, basis=Basis.SHAPE)
        times_steps = job.kind.is_calibrated and calibration is not None and calibration.slots == slots
        if times_steps and calibration is not None and calibration.seconds:
            step = 3 * _work(job) * job.training.recipe.batch_size  # operations, as `job.cost` counts them
            return Estimate(seconds=calibration.seconds / step * job.cost, basis=Basis.CALIBRATED)
        if rate := self._scaled(job):
            return Estimate(seconds=rate * job.cost * slots, basis=Basis.SCALED)
        operation, image = self._guess
        return Estimate(seconds=slots * job.cost * (operation + image / _work(job)), basis=Basis.GUESS)

    def _scaled(self, job: Job) -> float | None:
        """Seconds per operation and slot of the nearest shape, if it is near enough to say anything."""
        kind, work = job.kind.name, _work(job)
        distances = {other: abs(math.log(other / work)) for one, other in self._by_work if one == kind}
        nearest = min(distances, key=lambda other: distances[other], default=0.0)
        return self._by_work[kind, nearest] if nearest and distances[nearest] <= math.log(NEAR) else None


def _work(job: Job) -> float:
    """Operations of one image through one model: what decides how near to its limit a device comes."""
    if job.kind.of_user:
        return 1.0
    return sum(layer.operations for layer in job.training.model.layers(job.training.data)) or 1.0


def _slots_for_members(ran: Ran) -> float:
    """By what the time of a cohort is multiplied to be that of one whose slots are all in use."""
    return 1.0 if fills_slots(ran.job, ran.form) else ran.slots / ran.members
