"""A home whose sweeps were launched with other code than that at hand."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from qsweep.sweeps.code import STAMP, _digest, _files


def change_code(home: Path, file: str, text: str) -> str:
    """Make the home's sweeps those of a snapshot in which `file` holds `text`; its version."""
    (snapshot,) = [path for path in (home / "code").iterdir() if not path.name.startswith(".")]
    other = home / "code" / "other"
    shutil.copytree(snapshot, other, ignore=shutil.ignore_patterns("__pycache__"))
    (other / file).write_text(text)
    version = f"{snapshot.name.partition('+')[0]}+{_digest(_files(other))}"
    (other / STAMP).write_text(version)
    other.rename(home / "code" / version)
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE sweeps SET code = ?", (version,))
    connection.close()
    return version
