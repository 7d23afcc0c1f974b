"""One finished job as a tracker knows it: parameters, history, metrics, tags."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsweep.db.schema import EPOCH, PROVENANCE, ROW_KINDS
from qsweep.reports.source import Source
from qsweep.sweeps.job import Job

TAGS = ("attempt", "diverged", *(field.name for field in PROVENANCE if field.name != "finished_at"))
CURVES = [field.name for field in EPOCH if field.name != "epoch"]


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One finished job. Times are Unix seconds; `history` has one entry an epoch, with its number.

    Numbers that are not finite are left out: a diverged training says so in its tags.
    """

    job: str
    name: str
    kind: str
    parameters: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    history: tuple[tuple[int, Mapping[str, float]], ...]
    tags: Mapping[str, str]
    finished_at: float
    seconds: float


def tracked_runs(source: Source) -> Iterator[TrackedRun]:
    """Every finished job, in the order of the sweep."""
    jobs = {job.identity: job for job in source.jobs}
    curves = _curves(source)
    for name, kind in ROW_KINDS.items():
        if not kind.one_row_a_job:
            continue
        metrics = kind.numbers
        columns = dict.fromkeys(one for one in ("job", "finished_at", *TAGS, *metrics) if one in kind.columns.names)
        for row in source.read(name, list(columns)).to_pylist():
            if row["job"] in jobs:
                yield _run(source.title, jobs[row["job"]], row, metrics, curves.get(row["job"], ()))


def _curves(source: Source) -> dict[str, tuple[tuple[int, Mapping[str, float]], ...]]:
    found: dict[str, list[tuple[int, Mapping[str, float]]]] = defaultdict(list)
    for row in source.read("epochs", ["job", "epoch", *CURVES]).to_pylist():
        found[row["job"]].append((row["epoch"], _finite(row, CURVES)))
    return {job: tuple(history) for job, history in found.items()}


def _run(
    title: str,
    job: Job,
    row: Mapping[str, Any],
    metrics: Sequence[str],
    history: tuple[tuple[int, Mapping[str, float]], ...],
) -> TrackedRun:
    tags = {"qsweep.sweep": title, "qsweep.job": job.identity, "qsweep.kind": job.kind.name}
    if job.parent is not None:
        tags["qsweep.parent"] = job.parent
    tags |= {f"qsweep.{name}": str(row[name]) for name in TAGS if row.get(name) is not None}
    parameters = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in job.settings().items()
    }
    return TrackedRun(
        job=job.identity,
        name=job.identity[:12],
        kind=job.kind.name,
        parameters=parameters,
        metrics=_finite(row, metrics),
        history=history,
        tags=tags,
        finished_at=row["finished_at"].timestamp(),
        seconds=row["seconds"] or 0.0,
    )


def _finite(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {name: float(row[name]) for name in names if row[name] is not None and math.isfinite(row[name])}
