"""The rows that a finished cohort publishes."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from qsweep.workers.kinds.base import Outcome


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


def result_rows(outcome: Outcome, provenance: Provenance) -> dict[str, list[dict[str, Any]]]:
    """The rows of each kind of result. The one row of a job says what it is, and where it was done."""
    origin = asdict(provenance) | {"host": socket.gethostname()}
    kind = outcome.claims[0].job.kind
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kind.rows}
    for claim, rows in zip(outcome.claims, outcome.rows, strict=True):
        key = {"job": claim.job.identity, "attempt": claim.attempt}
        for name in kind.rows:
            more = origin | claim.job.columns() if name == kind.rows[0] else {}
            found[name] += [key | more | dict(row) for row in rows.get(name, ())]
    return found
