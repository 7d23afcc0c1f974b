"""What the manifest of an exported bundle says, taken for what it should be or refused with a ValueError."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from qsweep.db.losses import Lost
from qsweep.db.rows import Sweep
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import SweepState
from qsweep.db.views import VIEWS
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec

DIGEST = re.compile("[0-9a-f]{64}")
NEEDED = ("runs", "jobs", "attempts", "events")
"""What every export holds."""
TYPES: dict[Any, type | tuple[type, ...]] = {
    str: str,
    int: int,
    float: (int, float),
    float | None: (int, float, type(None)),
    SweepState: str,
}


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle, as it was exported."""

    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The sweep of a bundle, and its files by what they hold. Their names are made here, never read."""

    sweep: Sweep
    jobs: Mapping[str, Job]
    """The jobs that its specification means, by identity."""
    files: Mapping[str, FileEntry]
    lost: Sequence[Lost] = ()
    """Results that were lost already when it was exported."""


def read_exported(content: Mapping[str, Any]) -> Exported:
    """What a manifest says. Raises ValueError, KeyError or TypeError where it says what no export does."""
    spec = json.dumps(content["spec"], sort_keys=True, separators=(",", ":"), allow_nan=False)
    sweep = _sweep(content["sweep"], spec)
    jobs = {job.identity: job for job in Spec.from_json(spec, place=sweep.title).jobs()}
    files: dict[str, FileEntry] = {}
    for entry in content["files"]:
        name = str(entry["file"]).removesuffix(".parquet")
        if name not in {*ROW_KINDS, *VIEWS}:  # a newer version may write more
            continue
        if name in files or entry["file"] != f"{name}.parquet":
            raise ValueError(f"{entry['file']!r:.100} stands twice")
        files[name] = _entry(entry)
    if missing := [name for name in NEEDED if name not in files]:
        raise ValueError(f"there is no {missing[0]}.parquet in it")
    return Exported(sweep=sweep, jobs=jobs, files=files, lost=[_lost(one) for one in content.get("lost", ())])


def _lost(given: Mapping[str, Any]) -> Lost:
    if not all(isinstance(value, str) for value in given.values()):
        raise ValueError(f"{str(given)[:100]} is no lost result")
    return Lost(**given)


def _entry(entry: Mapping[str, Any]) -> FileEntry:
    rows, digest = entry["rows"], entry["sha256"]
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise ValueError(f"{rows!r:.100} is not a number of rows")
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
        raise ValueError(f"{digest!r:.100} is no SHA-256")
    return FileEntry(rows=rows, sha256=digest)


def _sweep(given: Mapping[str, Any], spec: str) -> Sweep:
    hints = {name: hint for name, hint in get_type_hints(Sweep).items() if name not in ("id", "spec")}
    needed = {one.name for one in dataclasses.fields(Sweep) if one.default is dataclasses.MISSING} & hints.keys()
    if not needed <= given.keys() <= hints.keys():
        raise ValueError(f"the sweep has {sorted(given)}, not {sorted(hints)}")
    for name, hint in hints.items():
        if name not in given:  # exported before there was such a field
            continue
        if isinstance(given[name], bool) or not isinstance(given[name], TYPES[hint]):
            raise ValueError(f"{name} of the sweep is {given[name]!r:.100}")
    return Sweep(**(given | {"id": 0, "spec": spec, "state": SweepState(given["state"])}))  # type: ignore[operator]
