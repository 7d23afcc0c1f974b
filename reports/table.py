"""A table of the paper, computed from committed results."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qsweep.db.schema import OPTIONAL, ROW_KINDS
from qsweep.reports.averages import averaged_over
from qsweep.reports.declaration import Column, Declaration, paper_values
from qsweep.reports.outliers import is_outside
from qsweep.reports.quantization import NAMING, Quantization, quantization_of, setting_text
from qsweep.reports.review import doubted_cells
from qsweep.sweeps.components import PARTS, naming_settings
from qsweep.sweeps.datasets import data_of

ROW_KEYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "dataset": lambda settings: data_of(settings).title,
    "model": lambda settings: str(PARTS["model"].build(settings, None).title),
    "precision": lambda settings: str(quantization_of(settings)),
}
"""What the paper calls the rows of a table, from a job's settings; any other key is a setting as it stands."""
DEFAULTS = {part.name: part.default for part in NAMING if part.added_later and part.default is not None}
"""What the settings of a job leave out, because it was so before there was a choice."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value: the mean over `count` models, its standard error, and the paper's value."""

    mean: float | None
    error: float | None
    count: int
    paper: float | None
    marks: str = ""
    """Signs behind the value, which the table's remarks explain."""
    behind: tuple[tuple[str, float], ...] = ()
    """The jobs that it is computed from, each with its value, by identity."""
    same_data: bool = True
    """Whether the paper's value is of the same data set; otherwise it is shown, and there is no difference."""
    doubted: bool = False
    """Whether a finding of `reports.review` speaks against the paper's value."""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None or not self.same_data else self.mean - self.paper


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its keys, its cells, and how many of the sweep's models stand behind them."""

    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    expected: int
    done: int
    diverged: tuple[str, ...]
    """Identities of the models that diverged, or whose values are not finite: counted in `done`, left out of
    the means."""
    outside: tuple[str, ...] = ()
    """Identities of models in the means that have a loss outside of reason (`reports.outliers`)."""
    averaged: tuple[str, ...] = ()
    """What the means are over beside what the table declares, with the values (`reports.averages`)."""

    @property
    def counted(self) -> int:
        """Models that are in the means."""
        return self.done - len(self.diverged)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A computed table, ready to be rendered."""

    declaration: Declaration
    heading: str
    rows: tuple[Row, ...]
    compared_with: str | None
    """The paper's data set that the values stand beside, if it is not the sweep's own."""
    remarks: tuple[str, ...] = ()
    """What a reader has to know of the marks."""


def make_table(
    declaration: Declaration,
    *,
    heading: str,
    jobs: Mapping[str, Mapping[str, Any]],
    results: Iterable[Mapping[str, Any]],
    compare_with: str | None = None,
) -> Table:
    """Average `results` by the declared rows.

    `jobs` holds the settings of every job of the sweep by its identity, in the sweep's order; `results` the
    committed rows, each with its `job`, and `diverged` where its kind has that. The order of the results does
    not matter: sums are exact (`math.fsum`).
    """
    keys_of: dict[str, tuple[str, ...]] = {}
    called: dict[str, Quantization] = {}
    told_by = {"dataset": PARTS["data"].known(), "model": PARTS["model"].known()}
    telling = sorted(naming_settings().union(*(told_by.get(name, {name}) for name in declaration.rows)))
    kept: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for job, settings in jobs.items():
        told = tuple(map(settings.get, telling))
        if told not in kept:
            kept[told] = row_keys(declaration, settings)
            if "precision" in declaration.rows:
                quantization = quantization_of(settings)
                called[str(quantization)] = quantization
        keys_of[job] = kept[told]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {keys: [] for keys in keys_of.values()}
    for result in results:
        if result["job"] in keys_of:
            groups[keys_of[result["job"]]].append(result)
    expected = Counter(keys_of.values())
    paper = paper_values(declaration)
    rows = []
    for keys in sorted(groups, key=lambda one: _order(declaration, one, called)):
        beside = tuple(
            compare_with if name == "dataset" and compare_with else key
            for name, key in zip(declaration.rows, keys, strict=True)
            if name in (declaration.paper_rows or declaration.rows)
        )
        rows.append(_row(declaration, keys, groups[keys], expected[keys], paper.get(beside, {}), jobs))
    rows = rows if compare_with is None else [beside_other_data(row) for row in rows]
    rows = _sorted(rows, declaration)
    return Table(declaration=declaration, heading=heading, rows=tuple(rows), compared_with=compare_with)


def _sorted(rows: list[Row], declaration: Declaration) -> list[Row]:
    """The rows in the order that the table declares, those without a value last."""
    if not declaration.order:
        return rows
    name = declaration.order.removeprefix("-")
    place = next(place for place, one in enumerate(declaration.columns) if one.name == name)
    known = [row for row in rows if row.cells[place].mean is not None]
    missing = [row for row in rows if row.cells[place].mean is None]
    known.sort(key=lambda row: row.cells[place].mean or 0.0, reverse=declaration.order.startswith("-"))
    return known + missing


def beside_other_data(row: Row) -> Row:
    """The row beside values of the paper that are of another data set."""
    return replace(row, cells=tuple(replace(cell, same_data=False) for cell in row.cells))


def with_doubts(table: Table) -> Table:
    """The table with those of the paper's values marked that its review finds fault with."""
    doubted = doubted_cells(table.declaration.paper or "")
    if not doubted:
        return table
    names = [column.name for column in table.declaration.columns]
    rows = []
    for row in table.rows:
        keys = (table.compared_with or row.keys[0], *row.keys[1:3])
        cells = [
            replace(cell, doubted=cell.paper is not None and (keys, name) in doubted)
            for name, cell in zip(names, row.cells, strict=True)
        ]
        rows.append(replace(row, cells=tuple(cells)))
    return replace(table, rows=tuple(rows))


def row_keys(declaration: Declaration, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The row that a job with these settings belongs to."""
    return tuple(
        ROW_KEYS[name](settings) if name in ROW_KEYS else _setting_text(settings.get(name, DEFAULTS.get(name)))
        for name in declaration.rows
    )


def _setting_text(value: Any) -> str:
    """A setting in a table; a job that has none of that name shows a dash."""
    return "–" if value is None else setting_text(value)


def _order(
    declaration: Declaration, keys: tuple[str, ...], called: Mapping[str, Quantization]
) -> tuple[Quantization | tuple[int, float, str], ...]:
    """Full precision first, numbers by size, texts by the alphabet."""
    return tuple(
        called[key] if name == "precision" else _natural(key) for name, key in zip(declaration.rows, keys, strict=True)
    )


def _natural(key: str) -> tuple[int, float, str]:
    try:
        return (0, float(key), key)
    except ValueError:
        return (1, 0.0, key)


def _row(
    declaration: Declaration,
    keys: tuple[str, ...],
    results: list[Mapping[str, Any]],
    expected: int,
    paper: Mapping[str, float],
    jobs: Mapping[str, Mapping[str, Any]],
) -> Row:
    names = [column.value for column in declaration.columns]
    may_lack = names if ROW_KINDS[declaration.kind].of.of_user else OPTIONAL  # what runs return is theirs to choose
    lost = {str(result["job"]) for result in results if not is_finite(result, names, may_lack=may_lack)}
    counted = sorted((one for one in results if str(one["job"]) not in lost), key=lambda one: str(one["job"]))
    cells = []
    for column in declaration.columns:
        having = [one for one in counted if one[column.value] is not None]
        behind = tuple((str(one["job"]), column.scale * float(one[column.value])) for one in having)
        cells.append(make_cell(column, behind, paper.get(column.name)))
    done = {str(result["job"]) for result in results}
    outside = [str(one["job"]) for one in counted if is_outside(one, jobs[one["job"]])]
    return Row(
        keys=keys,
        cells=tuple(cells),
        expected=expected,
        done=len(done),
        diverged=tuple(sorted(lost)),
        outside=tuple(dict.fromkeys(outside)),
        averaged=averaged_over(declaration, [jobs[str(one["job"])] for one in counted]),
    )


def make_cell(column: Column, behind: tuple[tuple[str, float], ...], paper: float | None, *, marks: str = "") -> Cell:
    """The cell that these jobs and their values make; its error is the standard error of a mean, or of a median the
    median absolute deviation."""
    values = [value for _, value in behind]
    value, error = mean_and_error(values)
    if column.statistic != "mean" and values:
        value, error = float(STATISTICS[column.statistic](values)), None
        if column.statistic == "median" and len(values) > 1:
            error = statistics.median(abs(one - value) for one in values)
    return Cell(mean=value, error=error, count=len({job for job, _ in behind}), paper=paper, marks=marks, behind=behind)


STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min, "max": max}


def is_finite(result: Mapping[str, Any], names: Iterable[str], *, may_lack: Collection[str] = OPTIONAL) -> bool:
    """Whether a model has every value but those that it `may_lack`. One may have a finite training loss and overflow in
    evaluation."""
    if result.get("diverged"):
        return False
    values = {name: result[name] for name in names}
    return all(name in may_lack if value is None else math.isfinite(value) for name, value in values.items())


def mean_and_error(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and standard error of the mean (ddof = 1), the same for any order; None where undefined."""
    count = len(values)
    if not count:
        return None, None
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)
