"""What a sweep will take: cohorts, memory, disk and time. Starts nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.job import Job, Kind
from sweeps.training import Training
from workers.forms import default_form

FLOAT = 4
"""Bytes of an fp32 number."""
BASE_MEMORY = 0.6e9
"""Bytes of a process that has imported torch."""
GUESSED_SPEED = 2e10
"""Operations a second of one agent on a CPU core, where nothing was measured yet."""


@dataclass(frozen=True, kw_only=True)
class CohortPlan:
    """The jobs of one cohort key: how many, run how many at a time."""

    key: str
    jobs: int
    slots: int
    form: str
    operations: float
    memory: float
    """Estimated bytes of an agent that runs such a cohort."""

    @property
    def cohorts(self) -> int:
        return -(-self.jobs // self.slots)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole sweep on `workers` agents."""

    cohorts: tuple[CohortPlan, ...]
    workers: int
    disk: float
    """Estimated bytes of the kept models and the results."""
    seconds: float
    basis: str
    """Where the estimate of the time comes from."""

    @property
    def jobs(self) -> int:
        return sum(cohort.jobs for cohort in self.cohorts)


def make_plan(jobs: Sequence[Job], *, workers: int, device: str, keep: str, speeds: Mapping[str, float]) -> Plan:
    """Group `jobs` into cohorts and estimate what they take.

    `speeds` holds measured operations a second of one agent by cohort key, from earlier runs on this machine.
    """
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.cohort_key].append(job)
    cohorts = []
    for key, members in groups.items():
        training = members[0].training
        slots, form = default_form(training, device)
        cohorts.append(
            CohortPlan(
                key=key,
                jobs=len(members),
                slots=slots,
                form=form.value,
                operations=sum(job.cost for job in members),
                memory=BASE_MEMORY + _data_bytes(training) + slots * _model_memory(training),
            )
        )
    seconds, basis = _time(cohorts, workers, speeds)
    kept = 0 if keep == "none" else sum(model_bytes(job.training) for job in jobs if job.kind is Kind.TRAIN)
    results = sum(4_000 + (120.0 * job.training.recipe.epochs if job.kind is Kind.TRAIN else 0) for job in jobs)
    return Plan(cohorts=tuple(cohorts), workers=workers, disk=kept + results, seconds=seconds, basis=basis)


def _time(cohorts: Sequence[CohortPlan], workers: int, speeds: Mapping[str, float]) -> tuple[float, str]:
    known = [cohort for cohort in cohorts if cohort.key in speeds]
    average = sum(speeds.values()) / len(speeds) if speeds else GUESSED_SPEED
    total = sum(cohort.operations / speeds.get(cohort.key, average) for cohort in cohorts)
    if not speeds:
        basis = "a guess: nothing was trained in this home yet"
    elif len(known) == len(cohorts):
        basis = "measured in this home on the same shapes"
    else:
        basis = f"measured in this home, {len(known)} of {len(cohorts)} shapes the same"
    return total / workers, basis


def model_bytes(training: Training) -> float:
    """Bytes of one kept model: weights, and bias, γ, β, running mean and variance of each output channel."""
    return FLOAT * sum(layer.weights + 5.0 * layer.outputs for layer in training.model.layers(training.data))


def _model_memory(training: Training) -> float:
    """Parameters with gradient, two optimizer buffers, the quantized copy and the best; five activations a layer."""
    layers = training.model.layers(training.data)
    activations = sum(layer.outputs * layer.side**2 for layer in layers) * training.recipe.batch_size
    return 6 * model_bytes(training) + 5.0 * FLOAT * activations


def _data_bytes(training: Training) -> float:
    data = training.data
    return float((data.train_images + data.test_images) * data.channels * data.size**2)
