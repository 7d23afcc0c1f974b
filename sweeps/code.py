"""Which code computes: the version that stands in the provenance of every result."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

PACKAGES = ("sweeps", "db", "workers")
"""The packages that an agent runs."""


def sources() -> list[tuple[str, Path]]:
    """Every file of code that an agent may run: its name below the root of the packages, and its path."""
    root = Path(__file__).resolve().parent.parent
    return [
        (str(path.relative_to(root)), path)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    ]


@functools.cache
def code_version() -> str:
    """The release and 12 hex digits of the hash of the code's files, e.g. `0.1.0+5f0c3a9e1d2b`."""
    digest = hashlib.sha256()
    for name, path in sources():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{release()}+{digest.hexdigest()[:12]}"


def release() -> str:
    """The installed release of qsweep."""
    try:
        return metadata.version("qsweep")
    except metadata.PackageNotFoundError:
        return "0"
