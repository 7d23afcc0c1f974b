"""Whether files are there that the registry counts, by their names alone and without Arrow: for `qsweep status`."""

from __future__ import annotations

import os
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.sweeps.kinds import KINDS


def is_anything_absent(home: Home, registry: Registry) -> bool:
    """Whether a results file or a kept model of some done job is not there. Results at a URL are not looked at."""
    counted = registry.counted()
    if isinstance(home.store, Path):
        there = {folder: _names(home.store / folder) for kind in KINDS.values() for folder in kind.rows}
        for kind, publication in {(kind, publication) for kind, publication, _ in counted}:
            if any(f"{publication}.parquet" not in there[folder] for folder in kind.rows):
                return True
    return any(model and not (home.models / model).is_file() for _, _, model in counted)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
