"""The log of the agent that ran a job last: its last lines, and what is added while the job runs."""

from __future__ import annotations

import os
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
BLOCK = 1 << 16
"""Bytes of a log that are read at once, from its end."""
OPEN = (State.QUEUED, State.RUNNING)


def log_of(home: Home, registry: Registry, job: JobRow) -> Path:
    """Where the log of the job's last attempt lies. Raises InputError if there is none here."""
    attempts = registry.history.attempts(job.id)
    if not attempts:
        raise InputError(f"job {job.identity[:12]} was not started yet")
    path = home.root / attempts[-1].log
    if not path.is_file():
        raise InputError(f"the log of attempt {attempts[-1].attempt} is not here", place=str(path))
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, of which no more is read than holds them."""
    with path.open("rb") as file:
        place = file.seek(0, os.SEEK_END)
        blocks, ends = list[bytes](), 0
        while place and ends <= count:
            size = min(BLOCK, place)
            place = file.seek(place - size)
            blocks.append(file.read(size))
            ends += blocks[-1].count(b"\n")
    text = b"".join(reversed(blocks))
    if place:  # before the first end of a line may stand a part of one
        text = text.partition(b"\n")[2]
    return _lines(text)[-count:]


def follow_log(home: Home, registry: Registry, job: JobRow, count: int) -> Iterator[str]:
    """The last lines, then whatever is added, by later attempts too, until the job neither waits nor runs.

    Raises InputError as `log_of` does. Changes nothing.
    """
    path = log_of(home, registry, job)
    whole = _whole_lines(path, 0)
    place = len(whole)
    yield from _lines(whole)[-count:]
    while True:
        row = registry.catalogue.job(job.identity)  # before the log is read: what it said until then is printed whole
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
