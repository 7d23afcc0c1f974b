"""The deep audit: are models and checkpoints, byte for byte, what the registry counts? Reads every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.sweeps.wholefiles import digest_of


def digest_problems(home: Home, registry: Registry) -> Iterator[str]:
    """Every counted model and every recorded checkpoint whose file is not what was recorded, in words.

    Checkpoints of running jobs come and go: only one that is still recorded after its file was found wrong is named.
    A model that is gone altogether is the plain audit's to name.
    """
    models = {row.model_file: row for one in registry.sweeps() for row in registry.jobs(one.id, state=State.DONE)}
    for file, row in models.items():
        if file and (found := _digest(home.models / file)) is not None and found != row.model_hash:
            yield f"job {row.identity[:12]}: its model {file} is not what was counted: its SHA-256 differs"
    recorded = registry.checkpoint_sums()
    wrong = {file: found for file, checksum in recorded.items() if (found := _differs(home, file, checksum))}
    still = registry.checkpoint_sums() if wrong else {}
    yield from (f"checkpoint {file} {found}" for file, found in wrong.items() if file in still)


def _differs(home: Home, file: str, checksum: str) -> str | None:
    found = _digest(home.checkpoints / file)
    if found == checksum:
        return None
    return "is gone" if found is None else "is not what was recorded: its SHA-256 differs"


def _digest(path: Path) -> str | None:
    """SHA-256 of a file in hex; None if it is none or can't be read."""
    if not path.is_file():
        return None
    try:
        return digest_of(path)
    except OSError:
        return None
