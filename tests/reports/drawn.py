"""A made-up sweep: results drawn by a fixed seed for the jobs of a real specification, behind the laws of a source."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from qsweep.db.rows import Sweep
from qsweep.db.states import SweepState
from qsweep.reports.source import Source, known_schema
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import DISTORTION, FLATNESS, SYNTHESIS, TRAIN
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.spec import Spec, matching
from qsweep.sweeps.zero_shot import Genie

SPECS = cache(read_sweep)
"""Specifications are expanded once a process: nothing changes them."""
START = pd.Timestamp("2026-01-02 03:04:05", tz="UTC")


class MadeSource(Source):
    """Rows as a source. `order` is a seed that shuffles them."""

    def __init__(self, spec: Spec, rows: Mapping[str, list[dict[str, Any]]], *, order: int | None = None) -> None:
        self.lost = []
        self.sweep = Sweep(
            id=1,
            name=spec.name,
            label="made",
            spec=spec.to_json(),
            size=len(spec.jobs()),
            owner="somebody",
            code="1",
            keep="all",
            state=SweepState.ACTIVE,
            reason="",
            created_at=0.0,
            launched_at=0.0,
        )
        self.called = spec.name
        self.rows = {
            name: list(given) if order is None else random.Random(order).sample(given, len(given))
            for name, given in rows.items()
        }

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        schema = known_schema(name)
        chosen = pa.schema([schema.field(one) for one in (schema.names if columns is None else columns)])
        return pa.Table.from_pylist(self.rows.get(name, []), schema=chosen)

    def place_of(self, kind: str, publication: str) -> str:
        return f"{kind}/{publication}.parquet"


def made_source(
    name: str = "digits-grid",
    *,
    changes: tuple[str, ...] = (),
    where: str | None = None,
    done: int | None = None,
    order: int | None = None,
) -> MadeSource:
    """The first `done` trainings of a built-in sweep (with `--set` changes) that `where` admits, and their measures.

    The gap falls and the training loss rises with fewer bits, by more than the noise between models.
    """
    spec = SPECS(name, changes)
    jobs = spec.jobs()
    trainings = [job for job in matching(jobs, where) if job.kind is TRAIN][:done]
    kept = {job.identity for job in trainings}
    measures = [job for job in jobs if job.kind is FLATNESS and job.parent in kept]
    distortions = [job for job in jobs if job.kind is DISTORTION and job.parent in kept]
    syntheses = [job for job in jobs if job.kind is SYNTHESIS and job.parent in kept]
    everything = [*trainings, *syntheses, *measures, *distortions]
    draw = np.random.default_rng(3)
    runs = [_run(job, draw) for job in trainings]
    rows = {
        "runs": runs,
        "measures": [_measure(job, draw) for job in measures],
        "distortions": [_distortion(job, draw) for job in distortions],
        "epochs": [row for job, run in zip(trainings, runs, strict=True) for row in _epochs(job, run)],
        "layers": [row for job in trainings for row in _layers(job, draw)],
        "syntheses": [_synthesis(job) for job in syntheses],
        "synthesis_losses": [row for job in syntheses for row in _synthesis_losses(job)],
        "synthetic_images": [row for job in syntheses for row in _synthetic_images(job, draw)],
        "jobs": [_job(job) for job in everything],
        "attempts": [_attempt(job, index) for index, job in enumerate(everything)],
    }
    return MadeSource(spec, rows, order=order)


PROVENANCE = {
    "attempt": 1,
    "code": "1",
    "torch": "2",
    "device": "cpu",
    "host": "here",
    "slots": 4,
    "form": "loop",
    "seconds": 2.0,
    "diverged": False,
}


def _run(job: Job, draw: np.random.Generator) -> dict[str, Any]:
    fewer = 5 - np.log2(job.training.bits)  # 0 for full precision, 4 for 2 bits
    train = 0.2 + 0.02 * fewer + 0.01 * draw.random()
    gap = 0.15 - 0.01 * fewer + 0.01 * draw.random()
    return {
        "job": job.identity,
        **PROVENANCE,
        **job.settings(),
        "train_loss": train,
        "test_loss": train + gap,
        "generalization_gap": gap,
        "train_accuracy": 1 - train / 10,
        "test_accuracy": 1 - (train + gap) / 10,
        "chosen_epoch": 3,
        "weight_norm": 10 + draw.random(),
        "distance": 5 + draw.random(),
    }


def _measure(job: Job, draw: np.random.Generator) -> dict[str, Any]:
    value = 2 + draw.random() + (job.training.bits == FULL_PRECISION)
    return {
        "job": job.identity,
        "parent": job.parent,
        **PROVENANCE,
        **job.settings(),
        "radius": 1 / value,
        "flatness": value**2,
        "value_init": value,
        "value_orig": value + 1,
        "saturated": False,
        "reached": 0.1,
        "weight_norm": 10.0,
    }


def _distortion(job: Job, draw: np.random.Generator) -> dict[str, Any]:
    assert isinstance(job.measure, Distortion)
    train, loss = 0.2 + 0.1 * draw.random(), 0.5 + job.measure.severity / 5 + draw.random()
    return {
        "job": job.identity,
        "parent": job.parent,
        **PROVENANCE,
        **job.settings(),
        "train_loss": train,
        "corrupted_loss": loss,
        "generalization_gap": loss - train,
        "corrupted_accuracy": 0.9 * draw.random(),
        "clean_loss": 0.4,
        "clean_accuracy": 0.95,
        "source": "generated",
        "frost": "synthetic" if job.measure.corruption == "frost" else None,
        "fingerprint": f"{job.measure.corruption}-{job.measure.severity}",
    }


def _synthesis(job: Job) -> dict[str, Any]:
    classes = job.training.data.classes
    found = {"class_counts": list(range(classes)), "classes_seen": classes - 1, "confidence": 0.75}
    numbers = {"image_loss": 0.1, "statistics_loss": 2.0, "loss": 2.1, "statistics_distance": 1.25}
    return {"job": job.identity, "parent": job.parent, **PROVENANCE, **job.settings(), **numbers, **found}


def _synthesis_losses(job: Job) -> list[dict[str, Any]]:
    if not isinstance(job.measure, Genie):
        return []
    return [
        {
            "job": job.identity,
            "attempt": 1,
            "batch": batch,
            "iteration": iteration,
            "image_loss": (1 + batch) / (10 + iteration),
            "statistics_loss": 100 / (1 + batch + iteration),
        }
        for batch in range(job.measure.batches)
        for iteration in range(job.measure.image_iterations)
    ]


def _synthetic_images(job: Job, draw: np.random.Generator) -> list[dict[str, Any]]:
    """Twenty images, of which the first sixteen have their pixels."""
    data = job.training.data
    numbers = draw.standard_normal((16, data.channels * data.size**2)).tolist() + [None] * 4
    return [
        {"job": job.identity, "attempt": 1, "image": place, "class": place % 10, "confidence": 1.0, "pixels": pixels}
        for place, pixels in enumerate(numbers)
    ]


def _epochs(job: Job, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "job": job.identity,
            "attempt": 1,
            "epoch": epoch,
            "train_loss": run["train_loss"] * 4 / epoch,
            "train_accuracy": run["train_accuracy"] * epoch / 4,
        }
        for epoch in range(1, 5)
    ]


def _layers(job: Job, draw: np.random.Generator) -> list[dict[str, Any]]:
    if job.training.quantizer is None:
        return []
    layers = job.training.model.layers(job.training.data)
    inner = 2.0**-job.training.bits
    return [
        {
            "job": job.identity,
            "attempt": 1,
            "layer": layer.name,
            "index": index,
            "bits": 8 if index in (0, len(layers) - 1) else job.training.bits,
            "step_size": (0.01 if index in (0, len(layers) - 1) else inner) * (1 + 0.1 * draw.random()),
        }
        for index, layer in enumerate(layers)
    ]


def _job(job: Job) -> dict[str, Any]:
    return {
        "job": job.identity,
        "kind": job.kind.name,
        "state": "done",
        "attempt": 1,
        "diverged": False,
        "parent": job.parent,
        "error": "",
        "progress": 0,
        "epoch": 0,
        "cost": job.cost,
        "cohort_key": job.cohort_key,
        "publication": "p",
        "registered_at": START,
        "ended_at": START,
        **job.settings(),
    }


def _attempt(job: Job, index: int) -> dict[str, Any]:
    started = START + pd.Timedelta(seconds=10 * (index // 4))
    return {
        "job": job.identity,
        "attempt": 1,
        "outcome": "done",
        "error": "",
        "started_at": started,
        "ended_at": started + pd.Timedelta(seconds=10),
        "resumed_from": 0,
        "agent": 1,
        "host": "here",
    }
