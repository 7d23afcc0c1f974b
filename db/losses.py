"""Results that the registry counts and that are not there: which jobs lost them, and how answers go on without."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from qsweep.db.columns import column, text
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults
from qsweep.db.rows import JobRow, Standing
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import State

MODEL = "model"
REMEDY = "`qsweep db check` names them, `qsweep db check --repair` takes them back into the queue"


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What one job lost: its rows of a kind of result, or its kept model (`model`)."""

    job: str
    kind: str
    file: str
    why: str
    """What is the matter with the file, as the end of a sentence."""

    def __str__(self) -> str:
        return f"{self.kind} of job {self.job[:12]}: {self.file} {self.why}"


def read_sound(
    store: ResultStore, kind: str, pointers: pa.Table, columns: Sequence[str] | None = None
) -> tuple[pa.Table, list[Lost]]:
    """As `ResultStore.read`, but without the rows that are lost; and which these are."""
    try:
        return store.read(kind, pointers, columns), []
    except DamagedResults:
        lost = list(find_lost(store, pointers, kinds=[kind]))
    gone = column([one.job for one in lost], pa.string())
    return store.read(kind, pointers.filter(pc.invert(pc.is_in(pointers["job"], value_set=gone))), columns), lost


def find_lost(store: ResultStore, pointers: pa.Table, *, kinds: Iterable[str] = tuple(ROW_KINDS)) -> Iterator[Lost]:
    """What these jobs lost, by reading every file that they point to, whole."""
    for name in kinds:
        of_kind = pointers.filter(pc.equal(pointers["kind"], text(ROW_KINDS[name].of.name)))
        for publication, theirs in _by_publication(of_kind).items():
            yield from _lost_in(store, name, publication, theirs)


def _by_publication(pointers: pa.Table) -> dict[str, list[tuple[str, int]]]:
    """The job and attempt of each pointer, by publication, in their order. One pass: there may be one a few jobs."""
    found: dict[str, list[tuple[str, int]]] = {}
    columns = (pointers[name].to_pylist() for name in ("publication", "job", "attempt"))
    for publication, job, attempt in zip(*columns, strict=True):
        found.setdefault(publication, []).append((job, attempt))
    return found


def find_missing(store: ResultStore, pointers: pa.Table) -> Iterator[Lost]:
    """What these jobs lost as a look at the names of the files tells: one listing a kind, and no file is opened."""
    for name, kind in ROW_KINDS.items():
        of_kind = pointers.filter(pc.equal(pointers["kind"], text(kind.of.name)))
        if not of_kind.num_rows:
            continue
        there = column(sorted(store.publications(name)), pa.string())
        missing = of_kind.filter(pc.invert(pc.is_in(of_kind["publication"], value_set=there)))
        for row in missing.to_pylist():
            yield Lost(job=row["job"], kind=name, file=store.path(name, row["publication"]), why="is gone")


def find_lost_models(home: Home, rows: Iterable[JobRow | Standing]) -> Iterator[Lost]:
    """Kept models of done jobs whose files are gone."""
    for row in rows:
        if row.state is State.DONE and row.model_file and not (home.models / row.model_file).is_file():
            yield Lost(job=row.identity, kind=MODEL, file=f"models/{row.model_file}", why="is gone")


def find_gone(home: Home, registry: Registry, sweep_id: int) -> list[Lost]:
    """What a look at the names of the files tells that the done jobs of a sweep lost: results and kept models."""
    rows = registry.catalogue.jobs(sweep_id, state=State.DONE)
    return [
        *find_missing(ResultStore(home.store), registry.catalogue.pointers(sweep_id)),
        *find_lost_models(home, rows),
    ]


def told(lost: Iterable[Lost], title: str) -> str | None:
    """What is missing from the answers about a sweep, for people; None if nothing is."""
    found = list(lost)
    if not found:
        return None
    jobs, kinds = counted({one.job for one in found}), ", ".join(sorted({one.kind for one in found}))
    where = f"{found[0].file} {found[0].why}"
    return f"the results of {jobs} of {title} are lost and left out here ({kinds}: {where}); {REMEDY}"


def counted(jobs: Collection[str]) -> str:
    """So many done jobs, in words."""
    return f"{len(jobs):,} done job" + ("" if len(jobs) == 1 else "s")


def _lost_in(store: ResultStore, name: str, publication: str, asked: Sequence[tuple[str, int]]) -> Iterator[Lost]:
    """What the jobs lost whose rows, by job and attempt, should be in this file."""
    file = store.path(name, publication)
    try:
        table = store.read_file(name, publication)
    except VanishedResults:
        yield from (Lost(job=job, kind=name, file=file, why="is gone") for job, _ in asked)
        return
    except DamagedResults as error:
        yield from (Lost(job=job, kind=name, file=file, why=str(error)) for job, _ in asked)
        return
    if not ROW_KINDS[name].one_row_a_job:
        return
    rows: dict[tuple[str, int], int] = {}
    for job, attempt in zip(table["job"].to_pylist(), table["attempt"].to_pylist(), strict=True):
        rows[job, attempt] = rows.get((job, attempt), 0) + 1
    for job, attempt in asked:
        found = rows.get((job, attempt), 0)
        if found != 1:
            yield Lost(job=job, kind=name, file=file, why=f"holds {found} rows of it, not one")
