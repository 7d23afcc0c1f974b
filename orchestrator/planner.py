"""What a sweep will take: cohorts, memory, disk and time. Starts nothing."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qsweep.db.rows import Calibration
from qsweep.db.rules import share
from qsweep.orchestrator.basis import Basis
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import File
from qsweep.sweeps.models import is_transformer
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.workers.forms import SAVED, Form, default_form, fills_slots, known_form

if TYPE_CHECKING:
    from qsweep.orchestrator.estimates import Speeds

FLOAT = 4
"""Bytes of an fp32 number."""
BASE_MEMORY = 0.6e9
"""Bytes of a process that has imported torch."""
STREAMED_BATCHES = 16.0
"""Batches of decoded images, in bytes, that wait or are on their way where a data set is read from its files."""
Recorded = Callable[[str], Calibration | None]
"""The calibration of a shape on this device, if the registry has one."""


@dataclass(frozen=True, kw_only=True)
class CohortPlan:
    """The jobs of one cohort key: how many, run how many at a time, how long one cohort takes."""

    key: str
    jobs: int
    slots: int
    together: int
    """Jobs of one cohort: as many as it has slots, or fewer where they are shared out over the agents."""
    form: str
    memory: float
    """Bytes of an agent that runs such a cohort: as `qsweep calibrate` saw it, else estimated."""
    seconds: float
    basis: Basis
    cost: float
    """Operations of one job: long ones are claimed first."""

    @property
    def cohorts(self) -> int:
        return -(-self.jobs // self.together)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole sweep on `workers` agents."""

    cohorts: tuple[CohortPlan, ...]
    workers: int
    disk: float
    """Estimated bytes of the kept models and the results."""
    seconds: float
    """Until the last agent is done."""
    idle: float
    """Share of the agents' time in which they wait for the last of them."""
    basis: Mapping[str, float]
    """Shares of the work whose time rests on each basis."""

    @property
    def jobs(self) -> int:
        return sum(cohort.jobs for cohort in self.cohorts)

    @property
    def memory(self) -> float:
        """Bytes of the largest agent."""
        return max((cohort.memory for cohort in self.cohorts), default=0.0)


def make_plan(
    jobs: Sequence[Job],
    *,
    workers: int,
    device: str,
    keep: str,
    speeds: Speeds,
    recorded: Recorded = lambda shape: None,
    limits: Mapping[str, int] | None = None,
) -> Plan:
    """Group `jobs` into cohorts and estimate what they take on `workers` agents of this class of devices.

    `limits`: by identity, the slots to which running out of memory has brought a job down.
    """
    first: dict[tuple[str, int | None], Job] = {}
    counts: Counter[tuple[str, int | None]] = Counter()
    for job in jobs:
        key = job.cohort_key, limits.get(job.identity) if limits else None
        first.setdefault(key, job)
        counts[key] += 1
    groups = [(job, counts[key], key[1]) for key, job in first.items()]
    cohorts = [
        _shared_out(_cohort(job, count, device, speeds, recorded(job.shape), limit), job, len(jobs), workers)
        for job, count, limit in groups
    ]
    seconds, idle = _simulate(cohorts, workers)
    return Plan(
        cohorts=tuple(cohorts),
        workers=workers,
        disk=_disk([(job, count) for job, count, _ in groups], keep),
        seconds=seconds,
        idle=idle,
        basis=_shares(cohorts),
    )


def _cohort(
    job: Job, count: int, device: str, speeds: Speeds, recorded: Calibration | None, limit: int | None
) -> CohortPlan:
    """The plan of so many jobs of one cohort key, of which this is the first."""
    if job.kind.of_user:
        return _calls(job, count, speeds)
    slots, form = default_form(job.training, device, trains=job.kind.is_calibrated, side_by_side=job.kind.side_by_side)
    modules = isinstance(job.training.model, Module)
    if recorded is not None and (known := known_form(recorded.slots, recorded.form, modules=modules)):
        slots, form = recorded.slots, known
    else:
        recorded = None
    slots = min(slots, limit or slots)
    estimate = speeds.estimate(job, slots, recorded)
    memory = cohort_memory(job.training, slots)
    if recorded is not None and recorded.peak and slots == recorded.slots and job.kind.is_calibrated:
        memory = float(recorded.peak)
    return CohortPlan(
        key=job.cohort_key,
        jobs=count,
        slots=slots,
        together=slots,
        form=form.value,
        memory=memory,
        seconds=estimate.seconds,
        basis=estimate.basis,
        cost=job.cost,
    )


def _shared_out(plan: CohortPlan, job: Job, jobs: int, workers: int) -> CohortPlan:
    """With fewer jobs in a cohort where a vacant slot costs nothing, so that all agents have some."""
    if fills_slots(job, plan.form):
        return plan
    together = share(plan.slots, jobs, workers)
    return replace(plan, together=together, seconds=plan.seconds * together / plan.slots)


def _calls(job: Job, count: int, speeds: Speeds) -> CohortPlan:
    """Calls of the user's code: one process after another, of which nothing is known before some have run."""
    estimate = speeds.estimate(job, 1)
    return CohortPlan(
        key=job.cohort_key, jobs=count, slots=1, together=1, form=Form.LOOP.value, memory=0.0,
        seconds=estimate.seconds, basis=estimate.basis, cost=job.cost,
    )  # fmt: skip


def _simulate(cohorts: Sequence[CohortPlan], workers: int) -> tuple[float, float]:
    """When the last agent is done, and the share of all agents' time that is spent waiting for it.

    Agents claim as they do in the registry: a free agent takes the next cohort, long jobs first.
    """
    free = [0.0] * workers
    work = 0.0
    for one in sorted(cohorts, key=lambda cohort: (-cohort.cost, cohort.key)):
        for _ in range(one.cohorts):
            heapq.heapreplace(free, free[0] + one.seconds)
        work += one.cohorts * one.seconds
    end = max(free)
    return end, max(1 - work / (end * workers), 0.0) if end else 0.0


def _shares(cohorts: Sequence[CohortPlan]) -> dict[str, float]:
    work = {basis: sum(one.cohorts * one.seconds for one in cohorts if one.basis is basis) for basis in Basis}
    total = sum(work.values())
    return {basis.value: seconds / total for basis, seconds in work.items() if seconds}


def _disk(groups: Sequence[tuple[Job, int]], keep: str) -> float:
    """What so many jobs like each of these leave: in a cohort they have the same model, data and epochs."""
    keeps = keep == "all" or (keep == "children" and any(job.parent is not None for job, _ in groups))
    return sum(count * (4_000 + _left(job, keeps)) for job, count in groups)


def _left(job: Job, keeps: bool) -> float:
    kept = model_bytes(job.training) if keeps and job.kind.leaves is File.MODEL else 0
    return kept + (120.0 * job.training.recipe.epochs if "epochs" in job.kind.rows else 0)


def model_bytes(training: Training) -> float:
    """Bytes of one kept model: weights, and bias, γ, β, running mean and variance of each output channel."""
    return FLOAT * sum(layer.weights + 5.0 * layer.outputs for layer in training.model.layers(training.data))


def cohort_memory(training: Training, slots: int) -> float:
    """Bytes that a process takes with that many such trainings side by side."""
    activations = slots * _activation_memory(training)
    if is_transformer(training.model):  # whose batches are taken in parts
        activations = min(activations, SAVED)
    return BASE_MEMORY + _data_bytes(training) + slots * _parameter_memory(training) + activations


def _parameter_memory(training: Training) -> float:
    """Parameters with gradient, two optimizer buffers, the quantized copy and the best."""
    return 6 * model_bytes(training)


def _activation_memory(training: Training) -> float:
    """Five activations a layer."""
    layers = training.model.layers(training.data)
    return 5.0 * FLOAT * sum(layer.activation for layer in layers) * training.recipe.batch_size


def _data_bytes(training: Training) -> float:
    data = training.data
    if data.streamed:
        return STREAMED_BATCHES * training.recipe.batch_size * data.channels * data.size**2
    return float((data.train_images + data.test_images) * data.bytes_of_one)
