"""The rows that a finished cohort publishes."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from qsweep.db.rows import Claim
from qsweep.workers.cohort import Result


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from. `seconds` is one job's share of its cohort's wall time, and
    `steps_per_second` the optimizer steps of all its models together (None where nothing was trained)."""

    code: str
    torch: str
    device: str
    slots: int
    form: str
    seconds: float
    steps_per_second: float | None
    finished_at: datetime


def result_rows(
    claims: Sequence[Claim], results: Sequence[Result], provenance: Provenance
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each kind of result: one of `runs` a job, one of `epochs` an epoch, one of `layers` a layer."""
    origin = asdict(provenance) | {"host": socket.gethostname()}
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "epochs": [], "layers": []}
    for claim, result in zip(claims, results, strict=True):
        key = {"job": claim.job.identity, "attempt": claim.attempt}
        rows["runs"].append(key | origin | claim.job.settings() | result.run)
        rows["epochs"] += [key | row for row in result.epochs]
        rows["layers"] += [key | row for row in result.layers]
    return rows


def measure_rows(
    kind: str, claims: Sequence[Claim], measured: Sequence[Mapping[str, Any]], provenance: Provenance
) -> dict[str, list[dict[str, Any]]]:
    """One row a job of the `kind` of result that its kind of job has: `measures` or `distortions`."""
    origin = asdict(provenance) | {"host": socket.gethostname()}
    return {
        kind: [
            {"job": claim.job.identity, "attempt": claim.attempt} | origin | claim.job.settings() | dict(row)
            for claim, row in zip(claims, measured, strict=True)
        ]
    }
