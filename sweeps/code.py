"""Which code computes: its version, and its snapshot that a sweep's agents run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import py_compile
import re
import subprocess
from collections.abc import Mapping
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
BYTECODE = re.compile(r".+\.pyc(\.\d+)?")
"""A file in `__pycache__`: with a number behind it while it is being written."""

CHECKED = (3).to_bytes(4, "little")
"""The flags of bytecode that Python holds against the hash of its source at each import (PEP 552)."""

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


def _foreign(snapshot: Path, files: Mapping[str, bytes]) -> list[Path]:
    """What else lies there: the snapshot comes first on an agent's path, so any file in it may be run. Bytecode is
    admitted beside its source, where Python puts it, if Python holds it against this source whenever it is imported."""
    known = {snapshot / name: content for name, content in files.items()}
    found = (path for path in snapshot.rglob("*") if path.is_symlink() or not path.is_dir())
    return [
        path
        for path in found
        if path.is_symlink() or not (path in known or path == snapshot / STAMP or _is_bytecode(path, known))
    ]


def is_of_older_layout(snapshot: Path) -> bool:
    """Whether this is code from before `qsweep` was one package: Python would find the installed one in its place."""
    return not (snapshot / PACKAGE).is_dir() and (snapshot / ROOMS[0]).is_dir()


def clear_bytecode(snapshot: Path) -> None:
    """Delete the bytecode there that Python would not hold against its source: what is left where somebody ran this
    code by hand. What can't be deleted stays, and the snapshot is not intact."""
    files = _files(snapshot)
    for path in _foreign(snapshot, files):
        if path.parent.name == "__pycache__":
            with contextlib.suppress(OSError):
                path.unlink()


def _is_bytecode(path: Path, sources: Mapping[Path, bytes]) -> bool:
    """Whether this is bytecode of one of these sources. Python would run bytecode that names no hash, or asks not to be
    checked, whatever the source says."""
    source = sources.get(path.parent.parent / f"{path.name.partition('.')[0]}.py")
    if source is None or BYTECODE.fullmatch(path.name) is None or path.parent.name != "__pycache__":
        return False
    if not path.name.endswith(".pyc"):
        return True  # being written: Python reads no file of this name
    with path.open("rb") as file:
        header = file.read(16)
    return header[4:] == CHECKED + importlib.util.source_hash(source)


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
    there is one that is not what its version names.

    It is compiled here, once: otherwise every agent would compile it that may write no bytecode.
    """
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
                py_compile.compile(
                    str(copy), dfile=str(target / name), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
                )
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
