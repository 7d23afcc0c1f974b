"""The paper's claims, each with a verdict from a sweep's own results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy import stats

from reports.analysis.measured import Quantity
from reports.analysis.pairing import Bootstrap, equivalence, holm, interval, matched, wilcoxon
from reports.table import precision_name
from sweeps.quantizers import FULL_PRECISION

ALPHA = 0.05
EIGHT = 8


class Verdict(StrEnum):
    """What the data say of a claim. UNDECIDED: too little data, or no effect that stands out of the noise."""

    SUPPORTED = "supported"
    PARTLY = "partly supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NO_DATA = "no data"


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number behind a verdict: a mean or a mean difference, its 95% interval and the p-value of its test."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: Verdict | None = None
    """Its own verdict, where a claim is made of several."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim about one group of models (a data set and a family of networks)."""

    name: str
    statement: str
    where: str
    """Where the paper makes it."""
    group: str
    verdict: Verdict
    reason: str
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the paper says, and where."""

    name: str
    text: str
    where: str

    def judged(self, group: str, verdict: Verdict, reason: str, numbers: Sequence[Number] = ()) -> Claim:
        """The claim about one group of models."""
        return Claim(
            name=self.name,
            statement=self.text,
            where=self.where,
            group=group,
            verdict=verdict,
            reason=reason,
            numbers=tuple(numbers),
        )


GAP_SHRINKS = Statement(name="gap-shrinks", text="The generalization gap shrinks as bits fall", where="Table 1")
LOSS_GROWS = Statement(name="train-loss-grows", text="The training loss grows as bits fall", where="Table 1")
EIGHT_EQUAL = Statement(name="int8-equals-fp32", text="8 bits equal full precision", where="Table 1")
FLATTER = Statement(
    name="quantized-is-flatter", text="Quantized models have flatter minima than full precision", where="Table 3"
)
STEPS_GROW = Statement(name="step-size-grows", text="The learned step size grows as bits fall", where="Figure 1")


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Within what 8 bits count as equal to FP32: a share of FP32's mean for losses and the gap, an absolute
    difference (a fraction of the images) for accuracies."""

    relative: float = 0.05
    accuracy: float = 0.005


def trend(
    statement: Statement,
    table: pd.DataFrame,
    *,
    quantity: str,
    group: str,
    rises: bool,
    bootstrap: Bootstrap,
) -> Claim:
    """Whether a `quantity` rises (or falls) with the bit width, over configurations that have every precision.

    Page's test for ordered alternatives decides over the whole, Wilcoxon's signed-rank test (Holm) over each
    step. `table` is that of `matched`.
    """
    widths = sorted(int(column) for column in table.columns)
    complete = table.dropna()
    if len(widths) < 2 or complete.empty:
        return statement.judged(group, Verdict.NO_DATA, "No configuration is done at two precisions.")
    steps = list(itertools.pairwise(widths))
    differences = [(complete[high] - complete[low]).to_numpy(dtype=np.float64) for low, high in steps]
    p_values = holm([wilcoxon(one) for one in differences])
    sign = 1 if rises else -1
    numbers = [
        Number(label=f"{quantity} at {precision_name(bits)}", value=float(complete[bits].mean()))
        for bits in widths[::-1]
    ]
    for (low, high), one, p_value in zip(steps, differences, p_values, strict=True):
        lower, upper = interval(one, bootstrap)
        label = f"{quantity}: {precision_name(high)} − {precision_name(low)}"
        numbers.append(
            Number(
                label=label,
                value=float(one.mean()),
                low=lower,
                high=upper,
                p_value=p_value,
                verdict=_of_difference(float(sign * one.mean()), p_value),
            )
        )
    verdict, reason = _of_trend(complete[widths if rises else widths[::-1]], numbers[len(widths) :])
    return statement.judged(group, verdict, reason, numbers)


def _of_difference(signed: float, p_value: float | None) -> Verdict:
    """Of a mean difference, positive where it goes the paper's way."""
    if p_value is None or p_value >= ALPHA:
        return Verdict.UNDECIDED
    return Verdict.SUPPORTED if signed > 0 else Verdict.CONTRADICTED


def _of_trend(ordered: pd.DataFrame, steps: Sequence[Number]) -> tuple[Verdict, str]:
    """Columns in the order in which the claim says that they rise."""
    count = len(ordered)
    if count < 2:
        direction = "in" if ordered.iloc[0].is_monotonic_increasing else "not in"
        return Verdict.UNDECIDED, f"One configuration, {direction} the claimed order: no test."
    values = ordered.to_numpy(dtype=np.float64)
    if values.shape[1] < 3:
        step = steps[0]
        return step.verdict or Verdict.UNDECIDED, f"Wilcoxon over {count} matched configurations: {_p(step.p_value)}."
    upward = stats.page_trend_test(values, method="asymptotic")
    downward = stats.page_trend_test(values[:, ::-1], method="asymptotic")
    text = f"Page's L = {upward.statistic:,.0f} over {count} matched configurations, {_p(upward.pvalue)}"
    if upward.pvalue < ALPHA:
        against = [_step(step) for step in steps if step.verdict is Verdict.CONTRADICTED]
        if against:
            return Verdict.PARTLY, f"{text}; against the order: {', '.join(against)}."
        apart = [_step(step) for step in steps if step.verdict is Verdict.SUPPORTED]
        alone = f"significant steps: {', '.join(apart)}" if apart else "no single step is significant"
        return Verdict.SUPPORTED, f"{text}; {alone}."
    if downward.pvalue < ALPHA:
        return Verdict.CONTRADICTED, f"{text}; the opposite order: {_p(downward.pvalue)}."
    return Verdict.UNDECIDED, f"{text}."


def _step(number: Number) -> str:
    return number.label.partition(": ")[2]


def eight_bits_equal(tables: dict[str, pd.DataFrame], *, group: str, margins: Margins, bootstrap: Bootstrap) -> Claim:
    """Whether 8 bits equal FP32: two one-sided tests for each metric, not the absence of a difference.

    The claim holds if every metric is equivalent within its margin (an intersection–union test, so no
    adjustment), and is contradicted if any difference lies outside its margin with its whole interval.
    """
    numbers = []
    for metric, table in tables.items():
        if EIGHT not in table or FULL_PRECISION not in table:
            continue
        both = table[[EIGHT, FULL_PRECISION]].dropna()
        if both.empty:
            continue
        full, quantized = (both[bits].to_numpy(dtype=np.float64) for bits in (FULL_PRECISION, EIGHT))
        margin = margins.accuracy if metric.endswith("accuracy") else margins.relative * abs(float(full.mean()))
        differences = quantized - full
        p_value = equivalence(quantized, full, margin)
        low, high = interval(differences, bootstrap)
        verdict = Verdict.SUPPORTED if p_value is not None and p_value < ALPHA else Verdict.UNDECIDED
        if low is not None and high is not None and (low > margin or high < -margin):
            verdict = Verdict.CONTRADICTED
        numbers.append(
            Number(
                label=f"{metric}: Int8 − FP32",
                value=float(differences.mean()),
                low=low,
                high=high,
                p_value=p_value,
                verdict=verdict,
                note=f"margin ±{margin:.3g}, {len(both)} pairs",
            )
        )
    if not numbers:
        return EIGHT_EQUAL.judged(group, Verdict.NO_DATA, "No configuration is done at 8 bits and in FP32.")
    verdicts = [number.verdict for number in numbers]
    equal = verdicts.count(Verdict.SUPPORTED)
    verdict = Verdict.CONTRADICTED if Verdict.CONTRADICTED in verdicts else Verdict.UNDECIDED
    verdict = Verdict.SUPPORTED if equal == len(verdicts) else verdict
    reason = f"Two one-sided paired tests: equivalent in {equal} of {len(verdicts)} metrics within the margins."
    return EIGHT_EQUAL.judged(group, verdict, reason, numbers)


def flatter(
    found: Sequence[Quantity], bits: pd.Series, configuration: pd.Series, *, group: str, bootstrap: Bootstrap
) -> Claim:
    """Whether quantized models are flatter than FP32, for each measure, convention and precision.

    A measure is smaller where a minimum is flatter. Wilcoxon's signed-rank test, Holm over all of them.
    """
    rows: list[tuple[str, np.ndarray, bool]] = []
    for quantity in found:
        table = matched(quantity.values, bits, configuration)
        bounds = matched(_as_number(quantity.saturated), bits, configuration)
        for width in sorted((int(column) for column in table.columns), reverse=True):
            if width == FULL_PRECISION or FULL_PRECISION not in table:
                continue
            both = table[[width, FULL_PRECISION]].dropna()
            if both.empty:
                continue
            saturated = bool(bounds[[width, FULL_PRECISION]].to_numpy().any())
            difference = (both[width] - both[FULL_PRECISION]).to_numpy(dtype=np.float64)
            rows.append((f"{quantity.label}: {precision_name(width)} − FP32", difference, saturated))
    if not rows:
        return FLATTER.judged(group, Verdict.NO_DATA, "No flatness was measured at two precisions.")
    p_values = holm([wilcoxon(difference) for _, difference, _ in rows])
    numbers = tuple(
        _flatness_number(label, difference, saturated, p_value, bootstrap)
        for (label, difference, saturated), p_value in zip(rows, p_values, strict=True)
    )
    return FLATTER.judged(group, *_of_flatness(numbers), numbers)


def _flatness_number(
    label: str, difference: np.ndarray, saturated: bool, p_value: float | None, bootstrap: Bootstrap
) -> Number:
    low, high = interval(difference, bootstrap)
    share = f"flatter in {int((difference < 0).sum())} of {len(difference)}"
    return Number(
        label=label,
        value=float(difference.mean()),
        low=low,
        high=high,
        p_value=p_value,
        verdict=_of_difference(-float(difference.mean()), p_value),
        note=share + (", saturated" if saturated else ""),
    )


def _of_flatness(numbers: Sequence[Number]) -> tuple[Verdict, str]:
    verdicts = [number.verdict for number in numbers]
    count = len(numbers)
    lower = sum(number.value < 0 for number in numbers)
    yes, no = verdicts.count(Verdict.SUPPORTED), verdicts.count(Verdict.CONTRADICTED)
    text = f"Lower than FP32 in {lower} of {count} comparisons of measure, convention and precision"
    if all(number.p_value is None for number in numbers):
        return Verdict.UNDECIDED, f"{text}; one configuration each: no test."
    verdict = Verdict.PARTLY if yes and no < yes else Verdict.CONTRADICTED if no > yes else Verdict.UNDECIDED
    verdict = Verdict.SUPPORTED if yes == count else verdict
    return verdict, f"{text}; significantly lower in {yes}, higher in {no}."


def _as_number(flags: pd.Series | None) -> pd.Series:
    return pd.Series(dtype=float) if flags is None else flags.astype(float)


def _p(value: float | None) -> str:
    if value is None:
        return "no test"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
