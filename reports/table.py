"""A table of the paper, computed from committed results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reports.declaration import Declaration, paper_values
from sweeps.datasets import DATASETS
from sweeps.models import MODELS
from sweeps.quantizers import FULL_PRECISION
from sweeps.settings import build

PRECISION_ORDER = ("FP32", *(f"Int{bits}" for bits in range(8, 1, -1)))

ROW_KEYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "dataset": lambda settings: DATASETS[settings["data"]].title,
    "model": lambda settings: build(MODELS[settings["model"]], settings).title,
    "precision": lambda settings: precision_name(settings["bits"]),
}
"""What the rows of a table may be grouped by, from a job's settings."""


def precision_name(bits: int) -> str:
    """The paper's name of a bit width: `FP32`, `Int8`, …"""
    return "FP32" if bits == FULL_PRECISION else f"Int{bits}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value: the mean over `count` models, its standard error, and the paper's value."""

    mean: float | None
    error: float | None
    count: int
    paper: float | None
    marks: str = ""
    """Signs behind the value, which the table's remarks explain."""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


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
    jobs: Iterable[Mapping[str, Any]],
    results: Iterable[Mapping[str, Any]],
    compare_with: str | None = None,
) -> Table:
    """Average `results` by the declared rows.

    `jobs` holds the settings of every job of the sweep, `results` the committed rows, each with the job's
    identity and `diverged`. The order of either does not matter: sums are exact (`math.fsum`).
    """
    expected: dict[tuple[str, ...], int] = defaultdict(int)
    for settings in jobs:
        expected[_keys(declaration, settings)] += 1
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        groups[_keys(declaration, result)].append(result)
    paper = paper_values(declaration)
    rows = []
    for keys in sorted(expected, key=lambda one: _order(declaration, one)):
        beside = tuple(
            compare_with if name == "dataset" and compare_with else key
            for name, key in zip(declaration.rows, keys, strict=True)
        )
        rows.append(_row(declaration, keys, groups[keys], expected[keys], paper.get(beside, {})))
    return Table(declaration=declaration, heading=heading, rows=tuple(rows), compared_with=compare_with)


def _keys(declaration: Declaration, settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(ROW_KEYS[name](settings) for name in declaration.rows)


def _order(declaration: Declaration, keys: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(
        PRECISION_ORDER.index(key) if name == "precision" else key
        for name, key in zip(declaration.rows, keys, strict=True)
    )


def _row(
    declaration: Declaration,
    keys: tuple[str, ...],
    results: list[Mapping[str, Any]],
    expected: int,
    paper: Mapping[str, float],
) -> Row:
    names = [column.value for column in declaration.columns]
    counted = [result for result in results if _is_finite(result, names)]
    cells = []
    for column in declaration.columns:
        mean, error = mean_and_error([column.scale * float(result[column.value]) for result in counted])
        cells.append(Cell(mean=mean, error=error, count=len(counted), paper=paper.get(column.name)))
    diverged = tuple(sorted(str(result["job"]) for result in results if not _is_finite(result, names)))
    return Row(keys=keys, cells=tuple(cells), expected=expected, done=len(results), diverged=diverged)


def _is_finite(result: Mapping[str, Any], names: list[str]) -> bool:
    """Whether a model has every value. One may have a finite training loss and overflow in evaluation."""
    return not result["diverged"] and all(result[name] is not None for name in names)


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
