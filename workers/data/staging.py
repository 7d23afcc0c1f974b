"""Data sets on a node's own disk: copied there once, by whichever agent comes first."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.data.images import Images, load

log = logging.getLogger(__name__)


def load_staged(data: DataSet, folder: Path, node: Path) -> Images:
    """Read `data` from its copy below `node`, a folder of this node's own, made from `folder` if there is none.

    The copy's fingerprint is checked like any other's; a damaged one is made anew. Where there is no room for a
    copy, or nothing to copy, `folder` itself is read. Raises InputError as `load` does.
    """
    for _ in range(2):
        place = _staged(data, folder, node)
        if place is None:
            break
        try:
            return load(data, place, download=False)
        except InputError as error:
            log.warning("%s; the copy is removed", error)
            with _locked(node, data):
                shutil.rmtree(place, ignore_errors=True)
    return load(data, folder, download=False)


def _staged(data: DataSet, folder: Path, node: Path) -> Path | None:
    """The folder below `node` that holds a copy; None if there can be none."""
    if data.folder is None or not (folder / data.folder).is_dir():
        return None
    try:
        _claim(node)
        with _locked(node, data):
            place = node / data.fingerprint
            if not place.is_dir():
                _copy(folder / data.folder, place, data.folder)
            return place
    except OSError as error:
        log.warning("%s is read where it is: no copy can be made in %s (%s)", data.title, node, error)
        return None


def _claim(node: Path) -> None:
    """Make the folder for this user alone. Raises OSError if it is another's, who could put anything there."""
    node.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = node.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{node} is not a folder of this user's")


@contextmanager
def _locked(node: Path, data: DataSet) -> Iterator[None]:
    """Of all agents on this node only one is in here. The lock goes with its process."""
    with (node / f"{data.fingerprint}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(source: Path, place: Path, name: str) -> None:
    """Copy complete or not at all; what a killed agent left half copied is never taken for a copy."""
    for abandoned in place.parent.glob(f".{place.name}.*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, temporary / name)
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    log.info("%s was copied to %s", source, place)
