"""What was started where for a sweep, recorded in the home: another process finds it again, and `resume` does alike."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qsweep.db.home import Home
from qsweep.sweeps.wholefiles import write_whole


@dataclass(frozen=True, kw_only=True)
class Start:
    """Agents that were started together and work without their launcher."""

    backend: str
    sweep: int
    reference: str
    """What the cluster calls them: the number of a Slurm array, a namespace of Ray; on this machine their keeper."""
    agents: int
    fleet: int = 0
    """How many agents there were to be in all, where one start is but a part of them; 0 is `agents`."""
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
    write_whole(home.starts / name, (json.dumps(asdict(start) | {"at": now}) + "\n").encode())


def by_backend(starts: Iterable[Start]) -> dict[str, list[Start]]:
    """These starts, apart by the backend that made them."""
    groups: dict[str, list[Start]] = {}
    for start in starts:
        groups.setdefault(start.backend, []).append(start)
    return groups


def fleet_size(starts: Sequence[Start], backend: str) -> int | None:
    """How many agents were asked for last on this backend; None if nobody knows. `starts`: the oldest first."""
    ours = [one for one in starts if one.backend == backend]
    if not ours:
        return None
    return ours[-1].fleet or max(one.agents for one in ours)


def recorded(home: Home, sweep: int) -> list[Start]:
    """The starts of a sweep, the oldest first."""
    files = home.starts.glob(f"{sweep}-*.json") if home.starts.is_dir() else ()
    return sorted((Start(**json.loads(file.read_text(encoding="utf-8"))) for file in files), key=lambda one: one.at)
