"""What was started where for a sweep, recorded in the home: another process finds it again, and `resume` does alike."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from db.home import Home


@dataclass(frozen=True, kw_only=True)
class Start:
    """Agents that were started together by a backend that is not this machine alone."""

    backend: str
    sweep: int
    reference: str
    """What the cluster calls them: the number of a Slurm array, a namespace of Ray."""
    agents: int
    selection: int | None = None
    """Which of the sweep's jobs they claim; None is all."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's own options, from which it is made again."""
    at: float = 0.0
    """Unix seconds."""


def record(home: Home, start: Start) -> None:
    """Keep a start in the home, stamped with the time; complete or not at all."""
    home.starts.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"{start.sweep}-{now:.3f}-{uuid.uuid4().hex[:8]}.json"
    temporary = home.starts / f".{name}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(start) | {"at": now}) + "\n", encoding="utf-8")
    temporary.replace(home.starts / name)


def by_backend(starts: Iterable[Start]) -> dict[str, list[Start]]:
    """These starts, apart by the backend that made them."""
    groups: dict[str, list[Start]] = {}
    for start in starts:
        groups.setdefault(start.backend, []).append(start)
    return groups


def recorded(home: Home, sweep: int) -> list[Start]:
    """The starts of a sweep, the oldest first."""
    files = home.starts.glob(f"{sweep}-*.json") if home.starts.is_dir() else ()
    return sorted((Start(**json.loads(file.read_text(encoding="utf-8"))) for file in files), key=lambda one: one.at)
