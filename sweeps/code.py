"""Which code computes: its version, and its snapshot that a sweep's agents run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import whole_folder

PACKAGE = "qsweep"
ROOMS = ("sweeps", "db", "workers")
"""The parts of the package that an agent runs."""
DIRTY = ".dirty"
STAMP = "CODE"
"""The file of a snapshot that holds its version."""
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*\+[0-9a-f]{12}")
ROOT = Path(__file__).absolute().parents[2]
"""The folder that `qsweep` is imported from: site-packages, a snapshot, or `src` of a checkout, whose links stay."""


@functools.cache
def _own_files() -> dict[str, bytes]:
    """Every file of code that an agent may run, read once: what is hashed is what is kept."""
    return _files(ROOT)


def _files(root: Path) -> dict[str, bytes]:
    package = root / PACKAGE
    paths = [path for room in ROOMS for path in sorted((package / room).rglob("*.py"))]
    paths += package.glob("__init__.py")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _digest(files: Mapping[str, bytes]) -> str:
    """12 hex digits of the hash of names and contents."""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:12]


def is_intact(snapshot: Path, version: str) -> bool:
    """Whether a snapshot holds the code that this version names, and nothing else that Python would run."""
    try:
        stamp = (snapshot / STAMP).read_text(encoding="utf-8").strip().removesuffix(DIRTY)
        files = _files(snapshot)
        return stamp == version and version.rpartition("+")[2] == _digest(files) and not _foreign(snapshot, files)
    except (OSError, UnicodeDecodeError):
        return False


def _foreign(snapshot: Path, files: Collection[str]) -> list[Path]:
    """What else lies there: the snapshot comes first on an agent's path, so any file in it may be run. Bytecode too:
    Python believes it, even where it names the hash of its source."""
    known = {snapshot / name for name in files} | {snapshot / STAMP}
    return [
        path for path in snapshot.rglob("*") if path not in known and os.path.lexists(path) and not _is_folder(path)
    ]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def is_of_older_layout(snapshot: Path) -> bool:
    """Whether this is code from before `qsweep` was one package: Python would find the installed one in its place."""
    return not (snapshot / PACKAGE).is_dir() and (snapshot / ROOMS[0]).is_dir()


def clear_bytecode(snapshot: Path) -> None:
    """Delete the bytecode there: what is left where somebody ran this code by hand, or by an older version. What can't
    be deleted stays, and the snapshot is not intact."""
    with contextlib.suppress(OSError):
        for path in _foreign(snapshot, _files(snapshot)):
            if path.parent.name == "__pycache__":
                path.unlink(missing_ok=True)


def check_snapshot(folder: Path, version: str) -> Path:
    """The snapshot `folder/VERSION`. Raises InputError if it is gone or no longer the code that its version names."""
    snapshot = folder / version
    if VERSION.fullmatch(version) is None or not snapshot.is_dir():
        raise InputError(
            f"the snapshot of code {version} is gone", place=str(snapshot), allowed="launch with --code current"
        )
    if is_of_older_layout(snapshot):
        raise InputError(
            f"the code {version} was kept by an older qsweep, and its agents can't be started by this one",
            place=str(snapshot),
            allowed="go on with --code current",
        )
    clear_bytecode(snapshot)
    if not is_intact(snapshot, version):
        raise InputError(
            f"this is not the code {version} any more: a file was changed, added or lost; nothing runs from it",
            place=str(snapshot),
            allowed="delete this folder; a launch of the same code writes it again, another takes --code current",
        )
    return snapshot


@functools.cache
def code_version() -> str:
    """The release and 12 hex digits of the hash of the code's files, e.g. `0.1.0+5f0c3a9e1d2b`."""
    return code_origin().removesuffix(DIRTY)


@functools.cache
def code_origin() -> str:
    """The version as it stands in the provenance of results: `.dirty` behind it says that the files differed from
    the commit that they were checked out from when the sweep was launched."""
    stamp = ROOT / STAMP
    if stamp.is_file():
        return stamp.read_text(encoding="utf-8").strip()
    return f"{release()}+{_digest(_own_files())}{DIRTY if _is_dirty() else ''}"


def release() -> str:
    """The installed release of qsweep."""
    try:
        return metadata.version("qsweep")
    except metadata.PackageNotFoundError:
        return "0"


def freeze(folder: Path) -> str:
    """Keep a snapshot of the code as `folder/VERSION`, complete or not at all; its version. Raises InputError if
    there is one that is not what its version names."""
    version = code_version()
    target = folder / version
    if target.is_dir():
        check_snapshot(folder, version)
        return version
    try:
        with whole_folder(target) as begun:
            for name, content in _own_files().items():
                copy = begun / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            (begun / STAMP).write_text(code_origin() + "\n", encoding="utf-8")
    except OSError:
        if not target.is_dir():  # else another launch was faster
            raise
    return version


def _is_dirty() -> bool:
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return False
    paths = [str((ROOT / PACKAGE / name).resolve()) for name in ("__init__.py", *ROOMS)]
    command = ["git", "-C", str(checkout), "status", "--porcelain", "--", *paths]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())
