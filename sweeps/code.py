"""Which code computes: its version, and its snapshot that a sweep's agents run."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import uuid
from importlib import metadata
from pathlib import Path

PACKAGES = ("sweeps", "db", "workers")
"""The packages that an agent runs."""
STAMP = "CODE"
"""The file of a snapshot that holds its version."""

ROOT = Path(__file__).resolve().parent.parent


def sources(root: Path = ROOT) -> list[Path]:
    """Every file of code that an agent may run, below the folder that holds the packages."""
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


@functools.cache
def code_version() -> str:
    """The release and 12 hex digits of the hash of the code's files, e.g. `0.1.0+5f0c3a9e1d2b`.

    `.dirty` behind it says that the files differ from the commit that they were checked out from.
    """
    stamp = ROOT / STAMP
    if stamp.is_file():
        return stamp.read_text(encoding="utf-8").strip()
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{release()}+{digest.hexdigest()[:12]}{'.dirty' if _is_dirty() else ''}"


def release() -> str:
    """The installed release of qsweep."""
    try:
        return metadata.version("qsweep")
    except metadata.PackageNotFoundError:
        return "0"


def freeze(folder: Path) -> str:
    """Keep a snapshot of the code as `folder/VERSION`, complete or not at all; its version."""
    version = code_version()
    target = folder / version
    if target.is_dir():
        return version
    temporary = folder / f".{uuid.uuid4().hex}"
    for path in sources():
        copy = temporary / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (temporary / STAMP).write_text(version + "\n", encoding="utf-8")
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(temporary)  # another launch was faster
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
