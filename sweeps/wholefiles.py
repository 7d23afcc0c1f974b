"""Files and folders that appear whole or not at all, and stay once they are there.

Every file that someone may find half written otherwise is written here: under a name of its own in the same folder,
synced, renamed into place, and then the folder is synced too, so that a power cut does not take the rename back.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from qsweep.sweeps.faults import point

LONGEST = 200
"""Bytes of a name that its temporary one takes up: file systems allow 255 in all."""
NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""How some network file systems answer who syncs a folder."""


def write_whole(path: Path, content: bytes | memoryview, *, at: str | None = None) -> None:
    """`path` holds the content afterwards; if that fails, what it held before. `at` as in `whole_file`."""
    with whole_file(path, at=at) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, *, at: str | None = None, mode: int = 0o666, new: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends. If the block or the disk fails, nothing is left of it.
    With `new` it replaces nothing: FileExistsError if there is something at `path` by then.

    It has that mode, less the umask. `at` names the points of the fault suite: `AT.written` before the rename,
    `AT.renamed` after it.
    """
    temporary = temporary_of(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if at is not None:
            point(f"{at}.written", temporary)
        if new:
            _rename_new(temporary, path)
        else:
            temporary.replace(path)
        if at is not None:
            point(f"{at}.renamed", path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _rename_new(temporary: Path, path: Path) -> None:
    """The rename, unless there is something at `path`: in one step where the file system has hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the block ends. If the block or the disk fails, nothing is left of it.

    OSError if there is something at `path` by then, other than an empty folder.
    """
    temporary = temporary_of(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync_below(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_of(path: Path) -> Path:
    """A name beside `path` that nobody else uses; a collector of garbage knows by it whose it is."""
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    return path.with_name(f".{name}.{uuid.uuid4().hex}.tmp")


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder survive a power cut, where the system can."""
    if os.name == "posix":
        _sync(folder)


def _sync_below(folder: Path) -> None:
    """Makes everything in the folder survive a power cut: by one call where the system has it, many times faster."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_all = getattr(ctypes.CDLL(None), "syncfs", None)
        if sync_all is not None and sync_all(descriptor) == 0:
            return
    finally:
        os.close(descriptor)
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)
