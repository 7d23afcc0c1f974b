"""A SQLite registry that can be read and not written: on a read-only file system, or another user's.

SQLite reads a database with a write-ahead log only where it may make a file beside it that all its users share. Where
it may not, there are two ways. A file system that nobody can write to is read as it is (`immutable=1`), if no log is
waiting there. Everywhere else, others could write while we read: then a private copy is read, of the file and its log,
taken at a moment at which neither changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.filesystems import network_kind
from qsweep.sweeps.errors import InputError

PATIENCE = 10.0
"""Seconds for which a copy is tried again while somebody writes."""
PAUSE = 0.05


@dataclass(frozen=True, kw_only=True)
class Readable:
    """How SQLite opens a registry that can't be written: a URI, and the folder of the copy that it names."""

    uri: str
    copy: tempfile.TemporaryDirectory[str] | None = None

    advice: str = "copy the home to a place where you can write, and name that by --home"

    def close(self) -> None:
        if self.copy is not None:
            self.copy.cleanup()


def is_writable(path: Path) -> bool:
    """Whether this process can write the file, and make SQLite's files beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def open_readable(path: Path) -> Readable:
    """How to read the registry at `path`, which can't be written. Raises InputError if it can't be read either."""
    if not os.access(path, os.R_OK):
        raise InputError("this file can't be read", place=str(path), allowed="ask its owner for permission to read it")
    if _is_frozen(path) and not _size(_log(path)):
        return Readable(uri=f"{path.as_uri()}?immutable=1")
    return _copied(path)


def _is_frozen(path: Path) -> bool:
    """Whether nobody can write there: the file system is mounted for reading, and no other machine has it."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and network_kind(path) is None


def _copied(path: Path) -> Readable:
    """A private copy, and its URI."""
    folder = tempfile.TemporaryDirectory(prefix="qsweep-registry-")
    copy = Path(folder.name) / "registry.db"
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            before = _moment(path)
            shutil.copyfile(path, copy)
            _log(copy).unlink(missing_ok=True)
            if _size(_log(path)):
                shutil.copyfile(_log(path), _log(copy))
            if _moment(path) == before:
                return Readable(uri=f"{copy.as_uri()}?mode=rw", copy=folder)
            if time.monotonic() > deadline:
                raise InputError(
                    "this registry can only be read, and is written all the time: no copy of it is whole",
                    place=str(path),
                    allowed="try again, or ask its owner for permission to write into its folder",
                )
            time.sleep(PAUSE)
    except OSError as error:
        folder.cleanup()
        raise InputError(
            f"this registry can only be read, and no copy of it could be made: {error.strerror}",
            place=str(path),
            allowed=f"name another folder for temporary files by TMPDIR (now {tempfile.gettempdir()})",
        ) from None
    except BaseException:
        folder.cleanup()
        raise


def _moment(path: Path) -> list[tuple[int, int]]:
    """What changes whenever the database or its log does."""
    found = []
    for one in (path, _log(path)):
        try:
            status = one.stat()
        except FileNotFoundError:
            found.append((0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size))
    return found


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
