"""Each precision against full precision, over the configurations that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from reports.table import precision_name
from sweeps.quantizers import FULL_PRECISION

METRICS = {
    "generalization_gap": -1,
    "train_loss": -1,
    "test_loss": -1,
    "train_accuracy": +1,
    "test_accuracy": +1,
}
"""What is compared, and which sign of a difference is an improvement."""
LEVEL = 0.95
JACKKNIFE = 2_000
"""Most pairs for which the bootstrap is bias-corrected and accelerated: that needs a jackknife."""
BLOCK = 4_000_000
"""Most resampled values held at once."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn: the same seed gives the same interval."""

    resamples: int = 9_999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One quantity at one precision against full precision, over `pairs` matched configurations.

    `difference` is the mean of (precision − FP32) with its 95% bootstrap interval; `t_p` and `wilcoxon_p` are
    two-sided, and `adjusted_p` is `wilcoxon_p` after Holm over all comparisons of a group. `improved` is the
    share of configurations in which the precision is the better one (a tie counts half), with Wilson's interval.
    """

    metric: str
    precision: str
    bits: int
    pairs: int
    reference: float
    mean: float
    difference: float
    low: float | None
    high: float | None
    t_p: float | None
    wilcoxon_p: float | None
    adjusted_p: float | None
    improved: float
    improved_low: float
    improved_high: float


def matched(values: pd.Series, bits: pd.Series, configuration: pd.Series) -> pd.DataFrame:
    """One row a configuration, one column a bit width; repeats are averaged, missing models are NaN."""
    frame = pd.DataFrame({"value": values, "bits": bits, "configuration": configuration}).dropna()
    return frame.pivot_table(index="configuration", columns="bits", values="value", aggfunc="mean", sort=True)


def compare(table: pd.DataFrame, metric: str, better: int, bootstrap: Bootstrap) -> list[Paired]:
    """Every quantized column of a `matched` table against full precision; highest bit width first."""
    if FULL_PRECISION not in table:
        return []
    found = []
    for bits in sorted((int(column) for column in table.columns), reverse=True):
        both = table[[FULL_PRECISION, bits]].dropna() if bits != FULL_PRECISION else table.iloc[:0]
        if len(both):
            found.append(_compared(both[bits], both[FULL_PRECISION], metric, bits, better, bootstrap))
    return found


def adjust(found: Sequence[Paired]) -> list[Paired]:
    """The same comparisons with Holm's adjusted p-values over all of them."""
    adjusted = iter(holm([one.wilcoxon_p for one in found]))
    return [replace(one, adjusted_p=next(adjusted)) for one in found]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; those that are missing stay so and count for nothing."""
    known = [value for value in p_values if value is not None]
    adjusted = iter(multipletests(known, method="holm")[1] if known else ())
    return [None if value is None else float(next(adjusted)) for value in p_values]


def interval(differences: Values, bootstrap: Bootstrap) -> tuple[float, float] | tuple[None, None]:
    """The 95% bootstrap interval of the mean (BCa; percentile for many values); None for a single value."""
    if len(differences) < 2:
        return None, None
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=bootstrap.resamples,
        batch=max(1, BLOCK // len(differences)),
        confidence_level=LEVEL,
        method="BCa" if len(differences) <= JACKKNIFE else "percentile",
        rng=np.random.default_rng(bootstrap.seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def wilcoxon(differences: Values, alternative: str = "two-sided") -> float | None:
    """p-value of Wilcoxon's signed-rank test; None for fewer than two differences or none but zero."""
    if len(differences) < 2 or not differences.any():
        return None
    return float(stats.wilcoxon(differences, alternative=alternative).pvalue)


def equivalence(quantized: Values, full: Values, margin: float) -> float | None:
    """p-value of the two one-sided paired t-tests (TOST) that the means differ by less than ±`margin`.

    None for fewer than two pairs. Where all differences are equal it is 0 or 1.
    """
    differences = quantized - full
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return float(abs(differences[0]) >= margin)
    return float(ttost_paired(quantized, full, -margin, margin)[0])


def _compared(
    quantized: pd.Series, full: pd.Series, metric: str, bits: int, better: int, bootstrap: Bootstrap
) -> Paired:
    differences = (quantized - full).to_numpy(dtype=np.float64)
    count = len(differences)
    low, high = interval(differences, bootstrap)
    wins = float((np.sign(differences) == better).sum() + (differences == 0).sum() / 2)
    share_low, share_high = proportion_confint(wins, count, alpha=1 - LEVEL, method="wilson")
    spread = count > 1 and float(np.ptp(differences)) > 0
    return Paired(
        metric=metric,
        precision=precision_name(bits),
        bits=bits,
        pairs=count,
        reference=float(full.mean()),
        mean=float(quantized.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        t_p=float(stats.ttest_rel(quantized, full).pvalue) if spread else None,
        wilcoxon_p=wilcoxon(differences),
        adjusted_p=None,
        improved=wins / count,
        improved_low=float(share_low),
        improved_high=float(share_high),
    )
