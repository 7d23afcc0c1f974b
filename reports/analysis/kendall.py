"""Kendall's τ-b and its p-values, as `scipy.stats.kendalltau` has them: importing that takes longer than a report."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

MOST_FACTORIAL = 170
"""The largest number whose factorial is a floating-point number."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The pairs of `count` items by the order in which two quantities have them."""

    count: int
    discordant: int
    ties: int
    """In both quantities."""
    left: tuple[int, ...]
    """How many items share a value of the left quantity, for each value that several have."""
    right: tuple[int, ...]

    @property
    def total(self) -> int:
        return math.comb(self.count, 2)

    @property
    def left_ties(self) -> int:
        return _tied(self.left)

    @property
    def right_ties(self) -> int:
        return _tied(self.right)

    @property
    def difference(self) -> int:
        """Concordant minus discordant pairs."""
        return self.total - self.left_ties - self.right_ties + self.ties - 2 * self.discordant

    def tau(self) -> float:
        """τ-b; neither quantity may be constant."""
        scaled = self.difference / math.sqrt(self.total - self.left_ties) / math.sqrt(self.total - self.right_ties)
        return min(1.0, max(-1.0, scaled))


def count_pairs(left: Iterable[float], right: Iterable[float]) -> Pairs:
    """Of two aligned sequences, in n·log n comparisons: those before an item that lie above it are discordant."""
    items = sorted(zip(left, right, strict=True))
    before: list[float] = []
    discordant = 0
    for _, value in items:
        discordant += len(before) - bisect_right(before, value)
        insort(before, value)
    return Pairs(
        count=len(items),
        discordant=discordant,
        ties=_tied(_shared(items)),
        left=_shared(one for one, _ in items),
        right=_shared(one for _, one in items),
    )


def _shared(values: Iterable[object]) -> tuple[int, ...]:
    """How often each value is there that is there more than once."""
    return tuple(count for count in Counter(values).values() if count > 1)


def asymptotic_p(pairs: Pairs) -> float:
    """Two-sided p-value of τ = 0 by the normal distribution, with the variance under these ties."""
    count = pairs.count
    ordered = count * (count - 1.0)
    variance = (
        (ordered * (2 * count + 5) - _tie_term(pairs.left) - _tie_term(pairs.right)) / 18
        + (2 * pairs.left_ties * pairs.right_ties) / ordered
        + _triples(pairs.left) * _triples(pairs.right) / (9 * ordered * (count - 2))
    )
    score = pairs.difference / math.sqrt(variance)
    return float(2 * special.ndtr(-abs(score)))


def exact_p(pairs: Pairs) -> float:
    """Two-sided p-value of τ = 0 by counting orders; without ties, of at most MOST_FACTORIAL items."""
    count = pairs.count
    assert count <= MOST_FACTORIAL
    fewest = min(pairs.discordant, pairs.total - pairs.discordant)
    if count <= 2 or 4 * fewest == count * (count - 1):
        return 1.0
    if fewest == 0:
        return 2.0 / math.factorial(count)
    if fewest == 1:
        return 2.0 / math.factorial(count - 1)
    orders = np.zeros(fewest + 1)  # of ever more items, by their number of discordant pairs
    orders[0:2] = 1.0
    for items in range(3, count + 1):
        orders = np.cumsum(orders)
        if items <= fewest:
            orders[items:] -= orders[: fewest + 1 - items]
    return float(np.clip(2.0 * np.sum(orders) / math.factorial(count), 0, 1))


def _tied(counts: Iterable[int]) -> int:
    return sum(math.comb(one, 2) for one in counts)


def _triples(counts: Iterable[int]) -> int:
    return sum(one * (one - 1) * (one - 2) for one in counts)


def _tie_term(counts: Iterable[int]) -> int:
    return sum(one * (one - 1) * (2 * one + 5) for one in counts)
