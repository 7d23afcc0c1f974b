"""The jobs of a sweep as rows: where each stands, what it found, and the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from qsweep.db.columns import column
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults
from qsweep.db.rows import JobRow
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import FailureClass, State
from qsweep.reports.source import Source
from qsweep.reports.widening import called
from qsweep.sweeps.calls import is_call
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.where import parse_where

RESULTS = (
    "train_loss", "test_loss", "train_accuracy", "test_accuracy", "generalization_gap", "val_loss", "val_accuracy",
    "chosen_epoch", "radius", "flatness", "corrupted_loss", "corrupted_accuracy",
    "statistics_distance", "confidence", "classes_seen", "seconds",
)  # fmt: skip
"""Columns of the results that a listing shows where any job has them."""
HIGHER = "accuracy"
"""Columns whose name holds this are those of which more is better."""
BEST_BY = "test_accuracy"
RETURNED = ("settings", "returned")
"""Columns of runs of the user's code, of which those of the returned values are made."""
OWN = ("job", "state", "attempt", "failure", "diverged", "lost", "epoch")
"""Columns of every row, beside settings and results."""
PAGE = 2_000
"""Jobs that are looked at together."""

Row = dict[str, Any]


def pages(
    registry: Registry, sweep_id: int, state: State | None = None, limit: int | None = None
) -> Iterator[list[JobRow]]:
    """The jobs of a sweep in the order of their registration, some thousands at a time, each page as it stands then."""
    ids = registry.catalogue.job_ids(sweep_id, state, limit)
    for start in range(0, len(ids), PAGE):
        rows = registry.catalogue.jobs_of(ids[start : start + PAGE])
        yield rows if state is None else [row for row in rows if row.state is state]


def kept_pages(
    registry: Registry, sweep_id: int, state: State | None, where: str | None, limit: int | None
) -> Iterator[list[JobRow]]:
    """The same of the jobs that `--where` admits. Raises InputError if that is malformed."""
    if where is None:
        yield from pages(registry, sweep_id, state, limit)
        return
    known = {name: one for page in pages(registry, sweep_id) for row in page for name, one in row.settings.items()}
    if not known:
        return
    condition, left = parse_where(where, known), limit
    for page in pages(registry, sweep_id, state):
        admitted = [row for row in page if condition(row.settings)][:left]
        yield admitted
        left = None if left is None else left - len(admitted)
        if left == 0:
            return


class Found:
    """What the jobs of a source found, by job: held as columns, and looked up for some of them at a time."""

    def __init__(self, source: Source, columns: Sequence[str] = RESULTS) -> None:
        """Raises DamagedResults."""
        self._tables: list[pa.Table] = []
        self._places: dict[str, tuple[int, int]] = {}
        for number, kind in enumerate(one for one in ROW_KINDS.values() if one.one_row_a_job):
            there = [name for name in (*columns, *RETURNED) if name in kind.columns.names]
            table = source.read(kind.name, ["job", *there])
            self._places |= {job: (number, row) for row, job in enumerate(table["job"].to_pylist())}
            self._tables.append(table.drop(["job"]))

    def of(self, jobs: Iterable[str]) -> dict[str, Row]:
        """The rows of those of these jobs that have one."""
        wanted: list[dict[str, int]] = [{} for _ in self._tables]
        for job in jobs:
            if place := self._places.get(job):
                wanted[place[0]][job] = place[1]
        found: dict[str, Row] = {}
        for table, rows in zip(self._tables, wanted, strict=True):
            taken = table.take(column(rows.values(), pa.int64())).to_pylist()
            found |= zip(rows, map(_widened, taken) if RETURNED[0] in table.column_names else taken, strict=True)
        return found


def _widened(row: Row) -> Row:
    """The row of a run of the user's code with what it returned by name."""
    settings, returned = (json.loads(row.pop(name)) for name in RETURNED)
    return row | {called(name, {*settings, *OWN}, returned): value for name, value in returned.items()}


def result_names(rows: Sequence[Row], jobs: Iterable[JobRow]) -> list[str]:
    """The columns that hold results: those of ours, then what runs of the user's code returned."""
    known = {*OWN, *RESULTS}.union(*(job.settings for job in jobs))
    return [*RESULTS, *dict.fromkeys(name for row in rows for name in row if name not in known)]


def job_rows(jobs: Sequence[JobRow], lost: Collection[int], found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a job; `lost` are agents that are gone, and `found` the results by job."""
    return [
        {
            "job": row.identity,
            "state": row.state.value,
            "attempt": row.attempt,
            "failure": row.failure_class and row.failure_class.value,
            "diverged": row.diverged,
            "lost": is_lost(row, lost),
            "epoch": row.epoch,
            **row.settings,
            **found.get(row.identity, {}),
        }
        for row in jobs
    ]


def readable_results(source: Source) -> tuple[Found | None, str]:
    """What the jobs of a source found, or why that can't be read: a job's state is worth showing without."""
    try:
        return Found(source), ""
    except DamagedResults as error:
        return None, str(error)


def is_lost(row: JobRow, lost: Collection[int]) -> bool:
    """Whether it runs by the book only."""
    return row.state is State.RUNNING and row.agent_id in lost


def state_text(row: JobRow, lost: Collection[int] = ()) -> str:
    """A job's state, and what a word can add to it."""
    return row.state.value + "".join(f" ({word})" for word in _words(row, lost))


def _words(row: JobRow, lost: Collection[int]) -> Iterator[str]:
    if row.state is State.CANCELLED and row.failure_class is FailureClass.STOPPED:
        yield f"stopped at epoch {row.epoch}"
    elif row.state is State.DONE and row.diverged:
        yield "diverged"
    elif is_lost(row, lost):
        yield "lost"
    elif row.state in (State.RUNNING, State.QUEUED) and row.epoch:
        yield f"epoch {row.epoch}"


def chosen_rows(rows: Sequence[Row], *, sort: str | None, best: int | None) -> list[Row]:
    """The rows in the order of a column, `-COLUMN` the other way round; or the `best` by it: the least, but for
    accuracies and `-COLUMN`. Raises InputError.

    Jobs that lack it come last, and are none of the best.
    """
    if sort is None and best is None:
        return list(rows)
    column = (sort or BEST_BY).removeprefix("-")
    check_columns(rows, [column], "--sort")
    if sort is None and any(map(is_call, rows)):
        raise InputError(f"runs of your own have no {BEST_BY}", place="--best", allowed="name a column by --sort too")
    there = [row for row in rows if row.get(column) is not None]
    backwards = bool(sort and sort.startswith("-")) or (best is not None and HIGHER in column)
    try:
        ordered = sorted(there, key=lambda row: row[column], reverse=backwards)
    except TypeError:
        ordered = sorted(there, key=lambda row: str(row[column]), reverse=backwards)
    return ordered[:best] if best is not None else ordered + [row for row in rows if row.get(column) is None]


def check_columns(rows: Sequence[Row], columns: Sequence[str], place: str) -> None:
    """Raise InputError for a column that no job can have."""
    known = dict.fromkeys(RESULTS) | {name: None for row in rows for name in row}
    for name in columns:
        if name not in known:
            raise InputError(f"jobs have no column {name!r}", place=place, allowed=nearest(name, known))
