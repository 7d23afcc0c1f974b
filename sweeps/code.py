"""Which code computes: its version, and its snapshot that a sweep's agents run."""

from __future__ import annotations

import functools
import hashlib
import py_compile
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from sweeps.wholefiles import whole_folder

PACKAGES = ("sweeps", "db", "workers")
"""The packages that an agent runs."""
DIRTY = ".dirty"
STAMP = "CODE"
"""The file of a snapshot that holds its version."""

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def _files(root: Path = ROOT) -> dict[str, bytes]:
    """Every file of code that an agent may run, read once: what is hashed is what is kept."""
    paths = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _digest(files: Mapping[str, bytes]) -> str:
    """12 hex digits of the hash of names and contents."""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:12]


def is_intact(snapshot: Path) -> bool:
    """Whether the files of a snapshot are still those that its version names."""
    stamp = snapshot / STAMP
    if not stamp.is_file():
        return False
    version = stamp.read_text(encoding="utf-8").strip().removesuffix(DIRTY)
    return version.rpartition("+")[2] == _digest(_files(snapshot))


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
    return f"{release()}+{_digest(_files())}{DIRTY if _is_dirty() else ''}"


def release() -> str:
    """The installed release of qsweep."""
    try:
        return metadata.version("qsweep")
    except metadata.PackageNotFoundError:
        return "0"


def freeze(folder: Path) -> str:
    """Keep a snapshot of the code as `folder/VERSION`, complete or not at all; its version.

    It is compiled here, once: otherwise every agent would compile it that may write no bytecode.
    """
    version = code_version()
    target = folder / version
    if target.is_dir():
        return version
    try:
        with whole_folder(target) as begun:
            for name, content in _files().items():
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
    if not (ROOT / ".git").exists():
        return False
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--", *PACKAGES]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())
