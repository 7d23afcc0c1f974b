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

from qsweep.reports.analysis.kendall import asymptotic_p, count_pairs, exact_p
from qsweep.reports.analysis.ranks import ASYMPTOTIC, EXACT

Matrix = npt.NDArray[np.float64]


ENUMERATED = 8
"""Most models with ties for which every order is tried: 8! = 40,320."""
RESAMPLED = 30
"""Most models with ties for which orders are drawn; beyond, the distribution is normal enough."""
COUNTED = 150
"""Most models without ties for which the distribution of τ is counted."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How orders are drawn where there are too many to try each: the same seed gives the same p-value."""

    resamples: int = 9_999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Kendall:
    """Kendall's τ-b over `models`, and the two-sided p-value of τ = 0; None where either side is constant.

    `method` is how the p-value was found: `exact`, `permutations` (drawn ones) or `asymptotic`.
    """

    tau: float | None
    p_value: float | None
    models: int
    method: str = ""


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


def kendall(quantity: pd.Series, gap: pd.Series, resampling: Resampling | None = None) -> Kendall:
    """Kendall's τ-b of two aligned columns; rows where either is missing are left out."""
    known = quantity.notna() & gap.notna()
    left, right = quantity[known].to_numpy(dtype=np.float64), gap[known].to_numpy(dtype=np.float64)
    count = len(left)
    if count < 2 or len(set(left)) < 2 or len(set(right)) < 2:
        return Kendall(tau=None, p_value=None, models=count)
    tied = len(set(left)) < count or len(set(right)) < count
    pairs = count_pairs(left.tolist(), right.tolist())
    if tied and count <= RESAMPLED:
        p_value, method = _permuted(left, right, resampling or Resampling())
    elif not tied and count <= COUNTED:
        p_value, method = exact_p(pairs), EXACT
    else:
        p_value, method = asymptotic_p(pairs), ASYMPTOTIC
    return Kendall(tau=pairs.tau(), p_value=p_value, models=count, method=method)


def _permuted(left: Matrix, right: Matrix, resampling: Resampling) -> tuple[float, str]:
    """The share of orders of `right` whose |τ| is no smaller: of all, or of those that are drawn and this one."""
    count = len(left)
    first, second = np.triu_indices(count, 1)
    signs = np.sign(left[first] - left[second]).astype(np.int32)
    other = np.sign(right[:, None] - right[None]).astype(np.int32)
    found = abs(int(signs @ other[first, second]))
    if count <= ENUMERATED:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        draw = np.random.default_rng(resampling.seed)
        orders = draw.permuted(np.tile(np.arange(count), (resampling.resamples, 1)), axis=1)
    as_far = int((np.abs(other[orders[:, first], orders[:, second]] @ signs) >= found).sum())
    if count <= ENUMERATED:
        return as_far / len(orders), EXACT
    return (as_far + 1) / (len(orders) + 1), "permutations"


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """The models in groups that differ in one hyperparameter alone: each model's group, and its place in it."""

    hyperparameter: str
    groups: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def spread(self, column: pd.Series) -> Matrix:
        """A column of the models as [groups, places]; NaN where there is no model."""
        found = np.full((int(self.groups.max()) + 1, int(self.places.max()) + 1), np.nan)
        found[self.groups, self.places] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return found


def lines_of(grid: pd.DataFrame, names: Sequence[str]) -> list[Lines]:
    """The groups along each of the hyperparameters `names`. `grid` holds one model a row, and no two alike."""
    found = []
    for name in names:
        others = [other for other in grid.columns if other != name]
        groups = grid.groupby(others, sort=True).ngroup() if others else pd.Series(0, index=grid.index)
        found.append(
            Lines(
                hyperparameter=name,
                groups=groups.to_numpy().astype(np.int64),
                places=grid[name].to_numpy(dtype=np.int64),
            )
        )
    return found


def granulate(quantity: pd.Series, gap: pd.Series, lines: Sequence[Lines]) -> Granulated:
    """Jiang's granulated coefficient; `quantity` and `gap` are aligned with the models of `lines`.

    τ within a group is the mean of sign(ΔC)·sign(Δg) over its pairs (their equation 3), so a tie counts zero.
    """
    found: dict[str, float | None] = {}
    for line in lines:
        products = [agree for *_, agree in _pairs(line, quantity, gap)]
        groups = np.stack(products) if products else np.empty((0, 0))  # [pairs of values, groups]
        known = ~np.isnan(groups)
        some = known.any(axis=0)
        taus = np.where(known, groups, 0.0).sum(axis=0)[some] / known.sum(axis=0)[some]
        found[line.hyperparameter] = float(taus.mean()) if taus.size else None
    values = [value for value in found.values() if value is not None]
    return Granulated(by_hyperparameter=found, overall=float(np.mean(values)) if values else None)


def sign_errors(
    quantity: pd.Series, gap: pd.Series, lines: Sequence[Lines], *, test_images: int | None = None
) -> list[Environment]:
    """The sign-error in each environment that has a pair, in the order of `lines`.

    With `test_images`, `gap` is a difference of accuracies over that many test images, and a pair is weighted
    by `hoeffding_weight`: pairs whose gaps differ by less than chance may explain drop out.
    """
    found = []
    for line in lines:
        for low, high, difference, agree in _pairs(line, quantity, gap):
            known = ~np.isnan(agree)
            weights = np.ones(int(known.sum()))
            if test_images is not None:
                weights = hoeffding_weight(difference[known], test_images)
            if not weights.sum():
                continue
            found.append(
                Environment(
                    hyperparameter=line.hyperparameter,
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


def _pairs(line: Lines, quantity: pd.Series, gap: pd.Series) -> Iterator[tuple[int, int, Matrix, Matrix]]:
    """For each two places: their numbers, and over the groups the differences of the gap and
    sign(ΔC)·sign(Δg); NaN where either model is missing."""
    quantities, gaps = line.spread(quantity), line.spread(gap)
    for low, high in itertools.combinations(range(quantities.shape[1]), 2):
        difference = gaps[:, high] - gaps[:, low]
        agree = np.sign(quantities[:, high] - quantities[:, low]) * np.sign(difference)
        if not np.isnan(agree).all():
            yield low, high, difference, agree
