"""Deleting a sweep: what it frees, and the files that go with it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsweep.db.garbage import Undeletable, remove, stuck
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore
from qsweep.db.rows import Deletion, Sweep
from qsweep.db.schema import ROW_KINDS


@dataclass(frozen=True, kw_only=True)
class Freed:
    """What a deletion frees. `rows` of results lie in files that go, and in files that others share."""

    deletion: Deletion
    rows: int
    results: int
    """Bytes of the results files in which nothing else counts."""
    models: int
    checkpoints: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.results + self.models + self.checkpoints

    def parts(self) -> Iterator[tuple[str, int, int]]:
        """What, how many, and their bytes."""
        yield "rows of results", self.rows, self.results
        yield "trained models", len(self.deletion.models), self.models
        yield "checkpoints", len(self.deletion.checkpoints), self.checkpoints

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "jobs": self.deletion.jobs,
            "shared": self.deletion.shared,
            "rows": self.rows,
            "models": len(self.deletion.models),
            "checkpoints": len(self.deletion.checkpoints),
            "bytes": self.size,
        }


def look_at(home: Home, registry: Registry, sweep: Sweep) -> Freed:
    """What a deletion of the sweep would free. Changes nothing."""
    found = registry.sweeps.deletion(sweep)
    return Freed(
        deletion=found,
        rows=_count_rows(home, registry, sweep, found),
        results=_results_size(ResultStore(home.store), found),
        models=_size(home.models / one for one in found.models),
        checkpoints=_size(home.checkpoints / one for one in found.checkpoints),
    )


def delete_sweep(home: Home, registry: Registry, sweep: Sweep) -> None:
    """Delete it from the registry, then the models and checkpoints that it alone had.

    These bear the attempt that wrote them in their names, so nobody who takes up a job afresh writes or reads them.
    Its results files are left to the garbage collection: a query may be reading them. Raises InputError while some
    of its jobs wait or run, QsweepError at the end if a file can't be deleted.
    """
    gone = registry.sweeps.delete(sweep.id)
    problems = []
    for path in (*(home.models / one for one in gone.models), *(home.checkpoints / one for one in gone.checkpoints)):
        try:
            remove(path)
        except Undeletable as error:
            problems.append(error)
    if problems:
        raise stuck(problems, f"{sweep.title} is deleted, and qsweep gc deletes such files once it can")


def _count_rows(home: Home, registry: Registry, sweep: Sweep, found: Deletion) -> int:
    lost = set(found.identities)
    pointers = [one for one in registry.catalogue.committed(sweep.id) if one.job in lost]
    count = 0
    for kind in ROW_KINDS:
        try:
            count += ResultStore(home.store).read(kind, pointers, columns=["job"]).num_rows
        except DamagedResults:  # what can't be read can be deleted all the same
            continue
    return count


def _results_size(store: ResultStore, found: Deletion) -> int:
    """Bytes of the results files in which nothing else counts, wherever they lie."""
    names = {f"{kind}/{one}.parquet" for kind in ROW_KINDS for one in found.publications}
    return sum(one.size for one in store.files() if one.name in names) if names else 0


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
