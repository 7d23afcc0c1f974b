"""Files that may be opened: a named pipe, a socket or a device with the name of an image would block, or never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from qsweep.sweeps.errors import InputError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_ordinary(path: str | bytes | Path) -> None:
    """Raise InputError unless a file of data lies there, or a link to one. Opens nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(_problem(path, error), place=os.fsdecode(path), allowed="allowed: files") from None
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        through = "a link to " if os.path.islink(path) else ""
        raise InputError(f"this is {through}{kind}, not a file", place=os.fsdecode(path), allowed="remove it")


def _problem(path: str | bytes | Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "this link leads to itself"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "this link leads nowhere"
    return f"this can't be read: {error.strerror}"
