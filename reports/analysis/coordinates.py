"""Where each trained model stands in its sweep's grid."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qsweep.sweeps.spec import Axis

REPEATS = ("seed", "data_seed")
"""Axes that repeat a configuration and are no hyperparameter."""
UNORDERED = ("optimizer", "model", "data")


def place_in_grid(runs: pd.DataFrame, axes: Sequence[Axis]) -> pd.DataFrame:
    """The position of each row of `runs` on each axis: 0 for the smallest (or the first, of names), and so on.

    The values of an axis that depends on another are counted within the branch: the highest of three learning
    rates is 2 for every optimizer, so that grids stay products. A model that lacks the
    setting is at 0; one with a value that the axis does not name, as in full precision `saq3` is stored as `sam`, comes
    behind all others. The index is that of `runs`.
    """
    return pd.DataFrame({axis.name: _positions(runs, axis) for axis in axes}, index=runs.index, dtype=np.int64)


def hyperparameters(axes: Sequence[Axis]) -> list[str]:
    """The axes that are varied on purpose."""
    return [axis.name for axis in axes if axis.name not in REPEATS and len(_all_values(axis)) > 1]


def is_ordered(name: str) -> bool:
    """Whether the values of a hyperparameter have an order that a rank correlation may use."""
    return name not in UNORDERED


def _positions(runs: pd.DataFrame, axis: Axis) -> list[int]:
    keys = [
        None if missing else _key(value) for value, missing in zip(runs[axis.name], runs[axis.name].isna(), strict=True)
    ]
    if axis.by is None:
        ranks = {None: 0, **_ranks(axis.values)}
        return [_rank(ranks, key) for key in keys]
    branches = {name: {None: 0, **_ranks(values)} for name, values in axis.branches}
    return [_rank(branches[_branch(by, branches)], key) for by, key in zip(runs[axis.by], keys, strict=True)]


def _rank(ranks: dict[Any, int], key: Any) -> int:
    """The rank of a value; one that the axis does not name comes behind those that it names."""
    return ranks.setdefault(key, max(ranks.values()) + 1)


def _branch(value: Any, names: Collection[str]) -> str:
    """The name of a branch as the sweep file has it: a whole number is a float in a column with gaps."""
    text = str(value.item() if isinstance(value, np.generic) else value)
    return text if text in names or not isinstance(value, float | np.floating) else f"{value:g}"


def _ranks(values: Sequence[Any]) -> dict[Any, int]:
    distinct = list(dict.fromkeys(_key(value) for value in values))
    if all(isinstance(value, int | float) for value in distinct):
        distinct.sort()
    return {value: rank for rank, value in enumerate(distinct)}


def _all_values(axis: Axis) -> set[Any]:
    return {_key(value) for value in axis.values} | {
        rank for _, values in axis.branches for rank in range(len(set(map(_key, values))))
    }


def _key(value: Any) -> Any:
    """Numbers as Python's own, lists as tuples: what a column of a frame and a sweep file agree on."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_key(one) for one in value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
