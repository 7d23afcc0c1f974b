"""Quantized models against those in full precision, over the configurations that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from qsweep.reports.analysis.ranks import hodges_lehmann, signed_rank, signed_rank_interval, signed_rank_method
from qsweep.reports.quantization import FULL, Quantization

METRICS = {
    "generalization_gap": -1,
    "train_loss": -1,
    "test_loss": -1,
    "train_accuracy": +1,
    "test_accuracy": +1,
}
"""What is compared, and which sign of a difference is an improvement."""
ALPHA = 0.05

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One quantity at one precision against full precision, over `pairs` matched configurations.

    `difference` is the Hodges–Lehmann estimate of (precision − FP32), `low` and `high` its 95% interval and
    `adjusted_p` its p-value by the signed-rank test, both for all comparisons of a group at once; `wilcoxon_p` is that
    of this comparison alone. `improved` is the share of configurations in which the precision is the better one (a tie
    counts half), with its interval after Clopper and Pearson.
    """

    metric: str
    precision: Quantization
    bits: int
    pairs: int
    reference: float
    mean: float
    difference: float
    low: float | None
    high: float | None
    wilcoxon_p: float | None
    adjusted_p: float | None
    method: str
    improved: float
    improved_low: float
    improved_high: float


def matched(values: pd.Series, quantization: pd.Series, configuration: pd.Series) -> pd.DataFrame:
    """One row a configuration, one column a `Quantization`; repeats are averaged, missing models are NaN."""
    frame = pd.DataFrame({"value": values, "quantization": quantization, "configuration": configuration}).dropna()
    return frame.groupby(["configuration", "quantization"], sort=True)["value"].mean().unstack()


def columns_of(table: pd.DataFrame) -> list[Quantization]:
    """The columns of a `matched` table, in order: full precision first."""
    columns: list[Any] = list(table.columns)
    return sorted(columns)


def compare(table: pd.DataFrame, metric: str, better: int) -> list[Paired]:
    """Every other column of a `matched` table against full precision, in order."""
    if FULL not in table:
        return []
    found = []
    for one in columns_of(table):
        both = table[[FULL, one]].dropna() if one != FULL else table.iloc[:0]
        if len(both):
            found.append(_compared(both[one], both[FULL], metric, one, better))
    return found


def adjust(found: Sequence[Paired], tables: Mapping[str, pd.DataFrame]) -> list[Paired]:
    """The same comparisons with p-values and intervals that hold for all of them at once (Bonferroni)."""
    tests = simultaneous([_differences(tables[one.metric], one.precision) for one in found])
    return [
        replace(one, low=test.low, high=test.high, adjusted_p=test.p_value)
        for one, test in zip(found, tests, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """By how much paired values differ: the Hodges–Lehmann estimate, its interval, and the signed-rank p-value.

    The interval leaves out 0 where p ≤ α, and only there; it is None where there are too few pairs for any. p is None
    for a single pair.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    pairs: int

    @property
    def method(self) -> str:
        """The test, and how its p-value was found."""
        return f"{signed_rank_method(self.pairs)} signed-rank"

    def sign(self) -> int:
        """+1 or −1 where the interval lies above or below 0, else 0."""
        return int(self.low is not None and self.low > 0) - int(self.high is not None and self.high < 0)


def simultaneous(samples: Sequence[Values]) -> list[Shift]:
    """The shift of each sample of differences, with p-values and intervals that hold for all at once (Bonferroni)."""
    tested = max(1, sum(len(one) > 1 for one in samples))
    return [shift_of(one, comparisons=tested) for one in samples]


def shift_of(differences: Values, *, comparisons: int = 1) -> Shift:
    """The shift of one sample of differences, which is one of that many that are judged together."""
    low, high = signed_rank_interval(differences, ALPHA / comparisons)
    p_value = signed_rank(differences)
    return Shift(
        value=hodges_lehmann(differences),
        low=low,
        high=high,
        p_value=None if p_value is None else min(1.0, comparisons * p_value),
        pairs=len(differences),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; those that are missing stay so and count for nothing."""
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, value * (len(known) - rank))
        adjusted[place] = min(1.0, largest)
    return adjusted


def share_interval(wins: float, count: int, alpha: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a share of `wins` of `count` trials."""
    low = 0.0 if wins == 0 else special.betaincinv(wins, count - wins + 1, alpha / 2)
    high = 1.0 if wins == count else special.betainccinv(wins + 1, count - wins, alpha / 2)
    return float(low), float(high)


def _differences(table: pd.DataFrame, one: Quantization) -> Values:
    both = table[[FULL, one]].dropna()
    return np.asarray((both[one] - both[FULL]).to_numpy(dtype=np.float64))


def _compared(quantized: pd.Series, full: pd.Series, metric: str, one: Quantization, better: int) -> Paired:
    differences = (quantized - full).to_numpy(dtype=np.float64)
    count = len(differences)
    shift = shift_of(differences)
    wins = float((np.sign(differences) == better).sum() + (differences == 0).sum() / 2)
    share_low, share_high = share_interval(wins, count, ALPHA)
    return Paired(
        metric=metric,
        precision=one,
        bits=one.bits,
        pairs=count,
        reference=float(full.mean()),
        mean=float(quantized.mean()),
        difference=shift.value,
        low=shift.low,
        high=shift.high,
        wilcoxon_p=shift.p_value,
        adjusted_p=None,
        method=shift.method,
        improved=wins / count,
        improved_low=share_low,
        improved_high=share_high,
    )
