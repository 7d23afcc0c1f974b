"""What lies in a home that nothing points to any more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from db.home import Home
from db.model_names import PATTERN as MODEL
from db.registry import Registry
from db.rows import JobRow
from db.states import HOLDING, State

CHECKPOINT = re.compile(r"(?P<attempt>\d+)-\d+\.pt")
PUBLICATION = re.compile(r"((?P<agent>\d+)|compact)-[0-9a-f]+\.parquet")
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?:[0-9a-f]{32}|\d+\.tmp)")


GRACE = 3600.0
"""Seconds for which a results file stays after it counted, or after a compaction wrote it: longer than any query."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one folder of a home takes, in bytes, and how much of it is garbage."""

    name: str
    files: int
    size: int
    garbage: int


def find_garbage(home: Home, registry: Registry, *, now: float) -> list[Path]:
    """Files that no job points to and that no live attempt may still be writing. `now` in Unix seconds.

    The files are listed before the registry is asked: what is committed in between counts as pointed to. Results
    that counted once stay for `GRACE` seconds more: a query may have taken its pointers before.
    """
    listed = {folder: list(_files(folder)) for folder in (home.results, home.models, home.checkpoints)}
    jobs = {row.identity: row for sweep in registry.sweeps() for row in registry.jobs(sweep.id)}
    alive = {agent.id for state in HOLDING for agent in registry.agents(state)}
    publications, saved, published = registry.publications(), registry.checkpoint_files(), registry.published()
    models = {row.model_file for row in jobs.values() if row.model_file}
    found = []
    for path in listed[home.results]:
        match = PUBLICATION.fullmatch(_final_name(path))
        if not match or path.stem in publications:
            continue
        if match["agent"] is None or path.stem in published:
            if _age(path, now) > GRACE:
                found.append(path)
        elif int(match["agent"]) not in alive:
            found.append(path)
    for path in listed[home.models]:
        match = MODEL.fullmatch(_final_name(path))
        if (
            match
            and str(path.relative_to(home.models)) not in models
            and not _is_live(jobs, match["job"], match["attempt"])
        ):
            found.append(path)
    for path in listed[home.checkpoints]:
        match = CHECKPOINT.fullmatch(_final_name(path))
        job = path.parent.name
        if match and str(path.relative_to(home.checkpoints)) not in saved and not _is_live(jobs, job, match["attempt"]):
            found.append(path)
    return found


def measure_usage(home: Home, garbage: list[Path]) -> list[Usage]:
    """What each folder of the home takes."""
    lost = set(garbage)
    usage = []
    for folder in (
        home.results, home.models, home.weights, home.checkpoints, home.corruptions, home.logs, home.code,
    ):  # fmt: skip
        sizes = {path: path.stat().st_size for path in _files(folder)}
        thrown = sum(size for path, size in sizes.items() if path in lost)
        usage.append(Usage(name=folder.name, files=len(sizes), size=sum(sizes.values()), garbage=thrown))
    return usage


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _age(path: Path, now: float) -> float:
    """Seconds since it was written or dated; 0 for one that another collector has just deleted."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _final_name(path: Path) -> str:
    """The name that a temporary file would have got."""
    match = TEMPORARY.fullmatch(path.name)
    return match["name"] if match else path.name


def _is_live(jobs: dict[str, JobRow], job: str, attempt: str) -> bool:
    row = jobs.get(job)
    return row is not None and row.state is State.RUNNING and row.attempt == int(attempt)
