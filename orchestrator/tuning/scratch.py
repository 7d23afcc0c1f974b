"""The temporary folders that Ray and Ray Tune write to: looked at before, and read out of a failure after."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qsweep.sweeps.errors import InputError, QsweepError

ROOM = 200e6
"""Bytes that Ray's logs and the snapshots of a tuning run take there."""
LEAST = 1e6
"""Bytes below which a folder counts as full, whatever the error says."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def scratch_folders() -> list[Path]:
    """Where Tune and Ray write: each in the folder that its own variable names."""
    found = [Path(tempfile.gettempdir()), Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())]
    return list(dict.fromkeys(found))


def check_scratch() -> None:
    """Raise InputError if one of them has no room."""
    for folder in scratch_folders():
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            raise no_room(folder, free)


def no_room(folder: Path, free: float) -> InputError:
    return InputError(
        f"{free / 1e6:.0f} MB are free in this temporary folder, and Ray needs {ROOM / 1e6:.0f}",
        place=str(folder),
        allowed="free some, or name another folder by TMPDIR and RAY_TMPDIR",
    )


@contextmanager
def told_if_full() -> Iterator[None]:
    """Say in one message that a temporary folder is full, where Ray and Tune end in long reports of it."""
    try:
        yield
    except QsweepError:
        raise
    except Exception as error:
        for folder in scratch_folders():
            free = shutil.disk_usage(folder).free
            if is_full(error) or free < LEAST:
                raise QsweepError(f"the tuning stopped: {no_room(folder, free)}; then run it again") from None
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return "No space left on device" in str(error) or "Disk quota exceeded" in str(error)
