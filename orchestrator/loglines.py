"""The log of the agent that ran a job last: its last lines, and what is added while the job runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import State
from qsweep.sweeps.errors import InputError

PAUSE = 0.5
"""Seconds between two looks at a log that is followed."""
OPEN = (State.QUEUED, State.RUNNING)


def log_of(home: Home, registry: Registry, job: JobRow) -> Path:
    """Where the log of the job's last attempt lies. Raises InputError if there is none here."""
    attempts = registry.attempts(job.id)
    if not attempts:
        raise InputError(f"job {job.identity[:12]} was not started yet")
    path = home.root / attempts[-1].log
    if not path.is_file():
        raise InputError(f"the log of attempt {attempts[-1].attempt} is not here", place=str(path))
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]


def follow_log(home: Home, registry: Registry, job: JobRow, count: int) -> Iterator[str]:
    """The last lines, then whatever is added, by later attempts too, until the job neither waits nor runs.

    Raises InputError as `log_of` does. Changes nothing.
    """
    path = log_of(home, registry, job)
    whole = _whole_lines(path, 0)
    place = len(whole)
    yield from _lines(whole)[-count:]
    while True:
        row = registry.job(job.identity)  # before the log is read: what it said until then is printed whole
        newest = log_of(home, registry, row)
        if newest != path:
            path, place = newest, 0
        whole = _whole_lines(path, place)
        place += len(whole)
        yield from _lines(whole)
        if row.state not in OPEN:
            return
        time.sleep(PAUSE)


def _whole_lines(path: Path, place: int) -> bytes:
    """What stands there from `place` on, but for a line that is not ended yet."""
    with path.open("rb") as file:
        file.seek(place)
        added = file.read()
    return added[: added.rfind(b"\n") + 1]


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", errors="replace").splitlines()
