"""How well a quantity orders models by their generalization gap.

`kendall` is Kendall's τ over all models. `granulate` is the granulated coefficient of Jiang et al. (2019, §4):
ψ_h averages τ over groups of models that differ in hyperparameter h alone, and Ψ averages ψ_h over h.
`sign_errors` is that of Dziugaite et al. (2020, §4): over pairs of models that differ in one hyperparameter
alone, ½·E[1 − sign(ΔC)·sign(Δg)], in one environment a hyperparameter and a pair of its values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Kendall:
    """Kendall's τ-b over `models`, and the two-sided p-value of τ = 0; None where either side is constant."""

    tau: float | None
    p_value: float | None
    models: int


@dataclass(frozen=True, kw_only=True)
class Granulated:
    """ψ of each hyperparameter, None where no group has two models; `overall` is Ψ, their mean."""

    by_hyperparameter: dict[str, float | None]
    overall: float | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The sign-error over the pairs that differ in `hyperparameter` alone, between these two positions.

    `effective` is the effective number of pairs, (Σw)²/Σw²: all of them where none is weighted.
    """

    hyperparameter: str
    low: int
    high: int
    error: float
    pairs: int
    effective: float


def kendall(quantity: pd.Series, gap: pd.Series) -> Kendall:
    """Kendall's τ-b of two aligned columns; rows where either is missing are left out."""
    known = quantity.notna() & gap.notna()
    left, right = quantity[known], gap[known]
    if len(left) < 2 or left.nunique() < 2 or right.nunique() < 2:
        return Kendall(tau=None, p_value=None, models=len(left))
    found = stats.kendalltau(left, right)
    return Kendall(tau=float(found.statistic), p_value=float(found.pvalue), models=len(left))


def granulate(quantity: pd.Series, gap: pd.Series, grid: pd.DataFrame, names: Sequence[str]) -> Granulated:
    """Jiang's granulated coefficient over the hyperparameters `names`, all columns of `grid`.

    τ within a group is the mean of sign(ΔC)·sign(Δg) over its pairs (their equation 3), so a tie counts zero.
    """
    found: dict[str, float | None] = {}
    for name in names:
        products = [agree for *_, agree in _pairs(name, quantity, gap, grid)]
        if not products:
            found[name] = None
            continue
        groups = np.stack(products)  # [pairs of values, groups]
        some = groups[:, ~np.isnan(groups).all(axis=0)]
        found[name] = float(np.nanmean(some, axis=0).mean()) if some.size else None
    known = [value for value in found.values() if value is not None]
    return Granulated(by_hyperparameter=found, overall=float(np.mean(known)) if known else None)


def sign_errors(
    quantity: pd.Series, gap: pd.Series, grid: pd.DataFrame, names: Sequence[str], *, test_images: int | None = None
) -> list[Environment]:
    """The sign-error in each environment that has a pair, in the order of `names`.

    With `test_images`, `gap` is a difference of accuracies over that many test images, and a pair is weighted
    by `hoeffding_weight`: pairs whose gaps differ by less than chance may explain drop out.
    """
    found = []
    for name in names:
        for low, high, difference, agree in _pairs(name, quantity, gap, grid):
            known = ~np.isnan(agree)
            weights = np.ones(int(known.sum()))
            if test_images is not None:
                weights = hoeffding_weight(difference[known], test_images)
            if not weights.sum():
                continue
            found.append(
                Environment(
                    hyperparameter=name,
                    low=low,
                    high=high,
                    error=float(((1 - agree[known]) / 2 * weights).sum() / weights.sum()),
                    pairs=int((weights > 0).sum()),
                    effective=float(weights.sum() ** 2 / (weights**2).sum()),
                )
            )
    return found


def hoeffding_weight(difference: Matrix, images: int) -> Matrix:
    """(w − ½)₊ with w = max(0, 1 − 2·exp(−n·d²/2))²: as in Dziugaite et al.'s code.

    1 − 2·exp(−n·d²/2) is Hoeffding's lower bound of the probability that two accuracy gaps that were found to
    differ by d over n images each do differ.
    """
    chance = np.maximum(0.0, 1.0 - 2.0 * np.exp(-images * difference**2 / 2.0)) ** 2
    return np.asarray(np.maximum(chance - 0.5, 0.0))


def _pairs(
    name: str, quantity: pd.Series, gap: pd.Series, grid: pd.DataFrame
) -> Iterator[tuple[int, int, Matrix, Matrix]]:
    """For each pair of values of one axis, over the groups that share every other coordinate: the positions,
    the differences of the gap, and sign(ΔC)·sign(Δg); NaN where either model is missing."""
    others = [other for other in grid.columns if other != name]
    keys = grid.groupby(others, sort=True).ngroup() if others else pd.Series(0, index=grid.index)
    frame = pd.DataFrame({"group": keys, "value": grid[name], "quantity": quantity, "gap": gap}).dropna()
    table = frame.pivot_table(index="group", columns="value", values=["quantity", "gap"], aggfunc="mean")
    if table.empty:
        return
    values = sorted({int(value) for value in frame["value"]})
    for low, high in itertools.combinations(values, 2):
        gaps = (table["gap"][high] - table["gap"][low]).to_numpy(dtype=np.float64)
        quantities = (table["quantity"][high] - table["quantity"][low]).to_numpy(dtype=np.float64)
        yield low, high, gaps, np.sign(quantities) * np.sign(gaps)
