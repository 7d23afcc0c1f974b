"""The table of a sweep that calls the user's code, where it declares none: a row for each combination that varies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qsweep.reports.declaration import Column, Declaration
from qsweep.reports.source import Source
from qsweep.reports.table import Table
from qsweep.reports.widening import VIEW, returned_numbers, wide_rows
from qsweep.sweeps.calls import COMMAND, RUN, SEED
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.settings import varying

MOST_COLUMNS = 8
"""Returned numbers that the table shows."""
DIGITS = 4
"""Digits of the largest value of a column."""


def table_of_calls(source: Source) -> list[Declaration]:
    """The means over the seeds, for each combination of the other settings that vary. None before a call is done."""
    numbers = returned_numbers(source)[:MOST_COLUMNS]
    if not numbers:
        return []
    rows = wide_rows(source)
    names = [name for name in varying([job.settings() for job in source.jobs]) if not name.endswith("_code")]
    keys = [name for name in names if name != SEED] or names
    columns = [
        Column(name=name, label=name, value=name, decimals=_decimals([row.get(name) for row in rows]))
        for name in numbers
    ]
    averages = [name for name in names if name not in keys]
    return [
        Declaration(
            title=source.spec.title,
            kind=VIEW,
            rows=keys or [RUN if rows[0][RUN] else COMMAND],
            columns=columns,
            averages=averages,
            name=VIEW,
        )
    ]


def with_numbers(rows: Iterable[Mapping[str, Any]], names: Sequence[str], table: str) -> list[Mapping[str, Any]]:
    """The rows, if these names are numbers in them. Raises InputError for one that no call returns."""
    found = list(rows)
    known = {name for row in found for name, value in row.items() if isinstance(value, bool | int | float)}
    if found and (unknown := [name for name in names if name not in known]):
        raise InputError(
            f"no run returns a number {unknown[0]!r}", place=f"{table}: columns", allowed=nearest(unknown[0], known)
        )
    return [{**row, **{name: _number(row.get(name)) for name in names}} for row in found]


def lacking(table: Table) -> list[str]:
    """A sentence for each mean that is not over all runs of its row, as not all of them returned a number there."""
    return [
        f"A number by some of the runs alone: {' '.join(row.keys)}: {column.label} by {cell.count} of {row.counted}."
        for row in table.rows
        for column, cell in zip(table.declaration.columns, row.cells, strict=True)
        if 0 < cell.count < row.counted
    ]


def _number(value: Any) -> float | None:
    return value if isinstance(value, bool | int | float) else None


def _decimals(values: Iterable[Any]) -> int:
    """Decimals of a mean that show so many digits of the largest of the values."""
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if not numbers or any(isinstance(value, bool) for value in numbers):
        return 2
    largest = max(map(abs, numbers))
    if all(isinstance(value, int) for value in numbers):
        return 1 if largest < 10**DIGITS else 0
    return min(max(DIGITS - 1 - math.floor(math.log10(largest)), 0), 6) if largest else DIGITS - 1
