"""Tests by ranks whose p-values are counted and not approximated, as far as counting goes.

Each says by which method its p-value was found. Beyond the sizes that stand here a normal approximation takes over.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special  # not `stats`: importing that takes longer than a report

Values = npt.NDArray[np.float64]

PAGE_COLUMNS = 7
"""Most columns for which Page's distribution is counted: the ranks of a row have 7! = 5,040 orders."""
PAGE_ROWS = 1_000
"""Most rows for which Page's distribution is counted."""
SIGNED_PAIRS = 500
"""Most pairs for which the distribution of the signed-rank statistic is counted."""
EXACT = "exact"
ASYMPTOTIC = "asymptotic"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A statistic, its p-value, and how the p-value was found (`exact`, `asymptotic`)."""

    statistic: float
    p_value: float
    method: str


def page(values: Values) -> Tested:
    """Page's test that the columns rise from left to right, one-sided; `values` is [rows, columns].

    Given the ties in each row, its ranks come in any order with the same chance. The distribution of L, the sum of
    column number × rank, is that of one row, convolved row by row.
    """
    rows, columns = values.shape
    doubled = doubled_ranks(values)
    weights = np.arange(1, columns + 1)
    found = int((doubled * weights).sum())
    if columns > PAGE_COLUMNS or rows > PAGE_ROWS:
        return _page_asymptotic(doubled, found)
    chances, lowest = np.ones(1), 0
    for ranks, repeats in sorted(Counter(tuple(sorted(row)) for row in doubled.tolist()).items()):
        one, first = _page_row(ranks)
        for _ in range(repeats):
            chances, lowest = np.convolve(chances, one), lowest + first
    return Tested(statistic=found / 2, p_value=_bounded(chances[found - lowest :].sum()), method=EXACT)


def doubled_ranks(values: Values) -> npt.NDArray[np.int64]:
    """Twice the rank of each value in its row: ties share the mean of their ranks, and these means are halves."""
    mine, other = values[:, :, None], values[:, None, :]
    return np.asarray(2 * (mine > other).sum(axis=2) + (mine == other).sum(axis=2) + 1, dtype=np.int64)


@lru_cache(maxsize=256)
def _page_row(ranks: tuple[int, ...]) -> tuple[Values, int]:
    """The chances of each sum of column number × doubled rank from the lowest one on, and the lowest one."""
    orders = np.array(list(itertools.permutations(ranks)), dtype=np.int64)
    sums = orders @ np.arange(1, len(ranks) + 1)
    return np.bincount(sums - sums.min()) / len(sums), int(sums.min())


def _page_asymptotic(doubled: npt.NDArray[np.int64], found: int) -> Tested:
    """By the normal distribution with L's mean and variance under these ties."""
    rows, columns = doubled.shape
    ranks, weights = doubled / 2, np.arange(1, columns + 1)
    mean = rows * columns * (columns + 1) ** 2 / 4
    spread = ranks.var(axis=1, ddof=1).sum() * ((weights - weights.mean()) ** 2).sum()
    score = 0.0 if spread == 0 else (found / 2 - mean) / np.sqrt(spread)
    return Tested(statistic=found / 2, p_value=float(special.ndtr(-score)), method=ASYMPTOTIC)


def signed_rank_method(count: int) -> str:
    """How the signed-rank test of this many differences is computed."""
    return EXACT if count <= SIGNED_PAIRS else ASYMPTOTIC


def exceeding(differences: Values, shift: float) -> int:
    """How many of the means of two differences (each with itself too) lie above `shift`.

    At 0, and without ties, that is the sum of the ranks of the positive differences.
    """
    return _exceeding(np.sort(differences), shift)


def _exceeding(ordered: Values, shift: float) -> int:
    """The same of differences in ascending order."""
    first_above = ordered.searchsorted(2 * shift - ordered, side="right")
    count = len(ordered)
    ordered_pairs = int((count - first_above).sum())
    alone = int((2 * ordered > 2 * shift).sum())
    return (ordered_pairs + alone) // 2


def signed_rank_tail(count: int, above: int) -> float:
    """P(T ≥ above) of the signed-rank statistic T of `count` differences that are as likely negative as positive."""
    if count > SIGNED_PAIRS:
        mean, spread = count * (count + 1) / 4, np.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        return float(special.ndtr(-(above - 0.5 - mean) / spread))
    return float(_signed_rank_tails(count)[above])


@lru_cache(maxsize=64)
def _signed_rank_tails(count: int) -> Values:
    """P(T ≥ t) for every t: each rank is added with chance ½."""
    chances = np.zeros(count * (count + 1) // 2 + 2)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2 if rank < len(chances) else chances[rank:]
        chances[:rank] /= 2
    return np.minimum(np.cumsum(chances[::-1])[::-1], 1.0)


def signed_rank(differences: Values) -> float | None:
    """Two-sided p-value of the signed-rank test that the differences lie around 0; None for fewer than two.

    A tie that leaves the sign open (a zero, or two differences that cancel) counts against an effect. So
    the p-value is no smaller than that of any order that breaks the ties: its level holds, and it agrees with
    `signed_rank_interval` whatever the ties.
    """
    count = len(differences)
    if count < 2:
        return None
    up, down = exceeding(differences, 0.0), exceeding(-differences, 0.0)
    return min(1.0, 2 * min(signed_rank_tail(count, up), signed_rank_tail(count, down)))


def signed_rank_equivalence(differences: Values, margin: float) -> float | None:
    """p-value that the differences lie around something within ±`margin`; None for fewer than two.

    Twice the larger of the p-values of two one-sided tests: at most α where the (1 − α) interval of
    `signed_rank_interval` lies within the margin.
    """
    count = len(differences)
    if count < 2:
        return None
    low = signed_rank_tail(count, exceeding(differences, -margin))
    high = signed_rank_tail(count, exceeding(-differences, -margin))
    return min(1.0, 2 * max(low, high))


def hodges_lehmann(differences: Values) -> float:
    """The estimate that goes with the signed-rank test: the median of the means of two differences."""
    total = len(differences) * (len(differences) + 1) // 2
    return (_mean_of_pair(differences, (total + 1) // 2) + _mean_of_pair(differences, total // 2 + 1)) / 2


def signed_rank_interval(differences: Values, alpha: float) -> tuple[float, float] | tuple[None, None]:
    """All shifts that the signed-rank test does not reject at `alpha`: it leaves out 0 where p ≤ alpha, and only there.

    None where there are so few differences that the test can't reject any shift at `alpha`.
    """
    count = len(differences)
    total = count * (count + 1) // 2
    if count < 2 or signed_rank_tail(count, total) > alpha / 2:
        return None, None
    low, high = 0, total  # the tail from `low` on is above α/2, that from `high` on is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if signed_rank_tail(count, middle) <= alpha / 2 else (middle, high)
    place = total - high + 1
    return _mean_of_pair(differences, place), -_mean_of_pair(-differences, place)


def _mean_of_pair(differences: Values, place: int) -> float:
    """The mean of two differences that is the `place`th from below, found by bisection over all numbers.

    There may be too many means to hold. It uses the count of `exceeding`, so the last digit can't disagree with it.
    """
    total = len(differences) * (len(differences) + 1) // 2
    ordered = np.sort(differences)
    low, high = _as_order(float(ordered[0])), _as_order(float(ordered[-1]))
    while low < high:
        middle = (low + high) // 2
        if total - _exceeding(ordered, _from_order(middle)) >= place:
            high = middle
        else:
            low = middle + 1
    return _from_order(low)


def _as_order(value: float) -> int:
    """A whole number that grows with the value, one a floating-point number."""
    bits = int(np.float64(value + 0.0).view(np.int64))
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _from_order(order: int) -> float:
    magnitude = float(np.int64(abs(order)).view(np.float64))
    return magnitude if order >= 0 else -magnitude


def _bounded(chance: float) -> float:
    return float(min(chance, 1.0))
