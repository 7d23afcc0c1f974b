"""The jobs of a sweep as rows: where each stands, what it found, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from qsweep.db.results import DamagedResults
from qsweep.db.rows import JobRow
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import FailureClass, State
from qsweep.reports.source import Source
from qsweep.sweeps.errors import InputError, nearest

RESULTS = (
    "train_loss", "test_loss", "train_accuracy", "test_accuracy", "generalization_gap", "val_loss", "val_accuracy",
    "chosen_epoch", "radius", "flatness", "corrupted_loss", "corrupted_accuracy",
    "statistics_distance", "confidence", "classes_seen", "seconds",
)  # fmt: skip
"""Columns of the results that a listing shows where any job has them."""
HIGHER = ("train_accuracy", "test_accuracy", "val_accuracy", "corrupted_accuracy")
"""Columns of which more is better."""
BEST_BY = "test_accuracy"

Row = dict[str, Any]


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
            **row.job.settings(),
            **found.get(row.identity, {}),
        }
        for row in jobs
    ]


def results_of(source: Source, columns: Sequence[str] = RESULTS) -> dict[str, Row]:
    """These columns of the counted results, by job. Raises DamagedResults."""
    found: dict[str, Row] = {}
    for kind in (one for one in ROW_KINDS.values() if one.one_row_a_job):
        there = [name for name in columns if name in kind.columns.names]
        for row in source.read(kind.name, ["job", *there]).to_pylist():
            found[row.pop("job")] = row
    return found


def readable_results(source: Source) -> tuple[dict[str, Row], str]:
    """The same, or none and why they can't be read: a job's state is worth showing without them."""
    try:
        return results_of(source), ""
    except DamagedResults as error:
        return {}, str(error)


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
    """The rows in the order of a column, `-COLUMN` the other way round; or the `best` by it. Raises InputError.

    Jobs that lack it come last, and are none of the best.
    """
    if sort is None and best is None:
        return list(rows)
    column = (sort or BEST_BY).removeprefix("-")
    check_columns(rows, [column], "--sort")
    there = [row for row in rows if row.get(column) is not None]
    backwards = bool(sort and sort.startswith("-")) if best is None else column in HIGHER
    try:
        ordered = sorted(there, key=lambda row: row[column], reverse=backwards)
    except TypeError:
        ordered = sorted(there, key=lambda row: str(row[column]), reverse=backwards)
    return ordered[:best] if best is not None else ordered + [row for row in rows if row.get(column) is None]


def check_columns(rows: Sequence[Row], columns: Sequence[str], place: str) -> None:
    """Raise InputError for a column that no job can have."""
    known = dict.fromkeys(RESULTS) | {name: None for row in rows for name in row}
    for column in columns:
        if column not in known:
            raise InputError(f"jobs have no column {column!r}", place=place, allowed=nearest(column, known))
