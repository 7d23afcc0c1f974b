"""Files and folders that appear whole or not at all, and stay once they are there.

Every file that someone may find half written otherwise is written here: under a name of its own in the same folder,
synced, renamed into place, and then the folder is synced too, so that a power cut does not take the rename back.

Who writes holds a lock on that file or folder. One that a killed writer left has none: in a home `qsweep gc` finds it,
and elsewhere the next who writes there and is `tidy`, or clears the folder.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qsweep.sweeps.faults import point

LONGEST = 200
"""Bytes of a name that its temporary one takes up: file systems allow 255 in all."""
BEGUN = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""The name of what somebody began to write."""
NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""How some network file systems answer who syncs a folder."""


def write_whole(path: Path, content: bytes | memoryview, *, at: str | None = None, tidy: bool = False) -> None:
    """`path` holds the content afterwards; if that fails, what it held before. `at` and `tidy` as in `whole_file`."""
    with whole_file(path, at=at, tidy=tidy) as file:
        file.write(content)


@contextmanager
def whole_file(
    path: Path, *, at: str | None = None, mode: int = 0o666, new: bool = False, tidy: bool = False
) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends. If the block or the disk fails, nothing is left of it.
    With `new` it replaces nothing: FileExistsError if there is something at `path` by then.

    It has that mode, less the umask. `at` names the points of the fault suite: `AT.written` before the rename,
    `AT.renamed` after it. `tidy` is for places that a user named: it is written where a link leads, OSError if that is
    a device, a pipe or a socket, which a rename would remove, and what killed writers of `path` left there goes first.
    """
    if tidy:
        path = _named(path)
        clear_abandoned(path)
    temporary, begun = _begun(path, lambda one: os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        with open(temporary, "wb", opener=lambda name, flags: begun) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if at is not None:
                point(f"{at}.written", temporary)
            if new:
                rename_new(temporary, path)
            else:
                temporary.replace(path)
        if at is not None:
            point(f"{at}.renamed", path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _named(path: Path) -> Path:
    """Where a user's path leads. OSError if there is neither a file nor a folder, but something else."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "this is a device, a pipe or a socket", str(path))
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def rename_new(temporary: Path, path: Path) -> None:
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
    """A folder that becomes `path` when the block ends. If the block or the disk fails, nothing is left of it. What
    killed writers of it left beside it goes first.

    OSError if there is something at `path` by then, other than an empty folder.
    """
    clear_abandoned(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, begun = _begun(path, _new_folder)
    try:
        yield temporary
        _sync_below(temporary)
        temporary.rename(path)
    finally:
        os.close(begun)
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_of(path: Path) -> Path:
    """A name beside `path` that nobody else uses; a collector of garbage knows by it whose it is."""
    return path.with_name(f"{_beginning(path)}{uuid.uuid4().hex}.tmp")


def _beginning(path: Path) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:LONGEST])}."


def clear_abandoned(path: Path) -> None:
    """Deletes the temporary files and folders of `path` that nobody writes any more; none where there are no locks."""
    named = re.compile(re.escape(_beginning(path)) + r"[0-9a-f]{32}\.tmp")
    with suppress(OSError):
        for one in [path.with_name(name) for name in os.listdir(path.parent) if named.fullmatch(name)]:
            _clear(one)


def clear_folder(folder: Path, *, below: bool = False) -> None:
    """Deletes what killed writers left in a folder of ours, whatever it was to become; with `below`, also under it."""
    for parent, folders, files in os.walk(folder):
        for name in filter(BEGUN.fullmatch, [*folders, *files]):
            _clear(Path(parent, name))
        folders[:] = [name for name in folders if below and not BEGUN.fullmatch(name)]


def _clear(path: Path) -> None:
    with suppress(OSError):
        left = _opened(path)
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(left)


def _begun(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A temporary file or folder of `path`, made and locked, and its descriptor: closing it gives the lock back."""
    while True:
        temporary = temporary_of(path)
        descriptor = make(temporary)
        with suppress(OSError):  # this file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # or somebody took it for abandoned before it was locked
            return temporary, descriptor
        os.close(descriptor)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return _opened(path)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder survive a power cut, where the system can."""
    if os.name == "posix":
        sync(folder)


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
        sync(path)


def sync(path: Path) -> None:
    """Makes this file or folder survive a power cut, where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)
