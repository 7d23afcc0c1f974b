"""The paper's claims, each with a verdict from a sweep's own results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from qsweep.reports.analysis.measured import Quantity
from qsweep.reports.analysis.pairing import ALPHA, Shift, columns_of, matched, shift_of, simultaneous
from qsweep.reports.analysis.ranks import page, signed_rank_equivalence
from qsweep.reports.quantization import Quantization

EIGHT = 8
SAQ, SADAG = "SAQ", "SADAG"
"""Where claims about training methods, and about synthetic images, are made; all others stand in a table or figure of
QGen."""


class Verdict(StrEnum):
    """What the data say of a claim. UNDECIDED: too little data, or no effect that stands out of the noise."""

    SUPPORTED = "supported"
    PARTLY = "partly supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NO_DATA = "no data"


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number behind a verdict: a mean, or a difference with its 95% interval and the p-value of its test.

    A verdict goes by that interval, and `method` names the test, whose p-value agrees with it.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: Verdict | None = None
    """Its own verdict, where a claim is made of several."""
    note: str = ""
    method: str = ""


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
    p_value: float | None = None
    """Of the test over the whole claim, which `method` names; None where its numbers alone decide."""
    method: str = ""
    note: str = ""
    """What limits the verdict: which part of the sweep it speaks of."""

    @property
    def source(self) -> str:
        """Where it is made, in words."""
        return f"{self.where}'s paper" if self.where in (SAQ, SADAG) else f"{self.where} of the paper"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the paper says, and where."""

    name: str
    text: str
    where: str

    def judged(
        self,
        group: str,
        verdict: Verdict,
        reason: str,
        numbers: Sequence[Number] = (),
        *,
        p_value: float | None = None,
        method: str = "",
    ) -> Claim:
        """The claim about one group of models."""
        return Claim(
            name=self.name,
            statement=self.text,
            where=self.where,
            group=group,
            verdict=verdict,
            reason=reason,
            numbers=tuple(numbers),
            p_value=p_value,
            method=method,
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


def trend(statement: Statement, table: pd.DataFrame, *, quantity: str, group: str, grows: bool) -> Claim:
    """Whether a `quantity` grows (or shrinks) as bits fall, over configurations that have every precision.

    Page's test for ordered alternatives decides over the whole, the signed-rank test over each step, all steps at
    once. Steps run as the claim does: the lower precision minus the higher one. `table` is that of `matched`, of models
    that differ in the bits of their weights alone.
    """
    widths = columns_of(table)
    complete = table.dropna()
    if len(widths) < 2 or complete.empty:
        return statement.judged(group, Verdict.NO_DATA, "No configuration is done at two precisions.")
    steps = list(itertools.pairwise(widths))
    shifts = simultaneous([(complete[low] - complete[high]).to_numpy(dtype=np.float64) for high, low in steps])
    numbers = [Number(label=f"{quantity} at {one}", value=float(complete[one].mean())) for one in widths]
    for (high, low), shift in zip(steps, shifts, strict=True):
        label = f"{quantity}: {low} − {high}"
        numbers.append(number_of(label, shift, towards=1 if grows else -1))
    ordered = complete[widths if grows else widths[::-1]].to_numpy(dtype=np.float64)
    return of_trend(statement, group, ordered, numbers, len(widths))


def number_of(label: str, shift: Shift, *, towards: int, note: str = "") -> Number:
    """A difference with the verdict that its interval gives; the claim is about the sign `towards`."""
    return Number(
        label=label,
        value=shift.value,
        low=shift.low,
        high=shift.high,
        p_value=shift.p_value,
        verdict=BY_SIGN[shift.sign() * towards],
        note=note,
        method=shift.method if shift.p_value is not None else "",
    )


BY_SIGN = {1: Verdict.SUPPORTED, 0: Verdict.UNDECIDED, -1: Verdict.CONTRADICTED}
"""The verdict on a difference by where its interval lies: on the claimed side of 0, on both, on the other."""


def of_trend(
    statement: Statement, group: str, ordered: np.ndarray, numbers: Sequence[Number], precisions: int
) -> Claim:
    """`ordered` has its columns in the order in which the claim says that they rise."""
    steps, count = numbers[precisions:], len(ordered)
    if count < 2:
        direction = "in" if bool((np.diff(ordered[0]) >= 0).all()) else "not in"
        reason = f"One configuration, {direction} the claimed order: no test."
        return statement.judged(group, Verdict.UNDECIDED, reason, numbers)
    if precisions < 3:
        (step,) = steps
        reason = f"Signed-rank test ({step.method.partition(' ')[0]}) over {count} matched configurations: "
        verdict = step.verdict or Verdict.UNDECIDED
        return statement.judged(
            group, verdict, f"{reason}{_p(step.p_value)}.", numbers, p_value=step.p_value, method=step.method
        )
    upward, downward = page(ordered), page(ordered[:, ::-1])
    text = f"Page's L = {upward.statistic:,.10g} over {count} matched configurations, "
    text += f"{_p(upward.p_value)} ({upward.method})"
    verdict = Verdict.UNDECIDED
    if upward.p_value <= ALPHA:
        against = [_step(step) for step in steps if step.verdict is Verdict.CONTRADICTED]
        apart = [_step(step) for step in steps if step.verdict is Verdict.SUPPORTED]
        verdict = Verdict.PARTLY if against else Verdict.SUPPORTED
        text += f"; against the order: {', '.join(against)}" if against else ""
        text += "" if against else f"; significant steps: {', '.join(apart) or 'no single one'}"
    elif downward.p_value <= ALPHA:
        verdict = Verdict.CONTRADICTED
        text += f"; the opposite order: {_p(downward.p_value)}"
    method = f"{upward.method} Page's L"
    return statement.judged(group, verdict, f"{text}.", numbers, p_value=upward.p_value, method=method)


def _step(number: Number) -> str:
    return number.label.partition(": ")[2]


def eight_bits_equal(tables: dict[str, pd.DataFrame], *, group: str, margins: Margins) -> Claim:
    """Whether 8 bits equal FP32: a test of equivalence for each metric, not the absence of a difference.

    A metric is equal if the interval of its difference lies within the margin, apart if it lies outside, undecided
    otherwise. The claim holds if every metric is equal (an intersection–union test, so no adjustment), and is
    contradicted if any is apart.
    """
    numbers = []
    for metric, table in tables.items():
        eight, reference = _of_bits(table, EIGHT), reference_of(table)
        if eight is None or reference is None:
            continue
        both = table[[eight, reference]].dropna()
        if both.empty:
            continue
        full, quantized = (both[one].to_numpy(dtype=np.float64) for one in (reference, eight))
        margin = margins.accuracy if metric.endswith("accuracy") else margins.relative * abs(float(full.mean()))
        numbers.append(_equality(f"{metric}: {eight} − {reference}", quantized - full, margin))
    if not numbers:
        return EIGHT_EQUAL.judged(group, Verdict.NO_DATA, "No configuration is done at 8 bits and in FP32.")
    verdicts = [number.verdict for number in numbers]
    equal = verdicts.count(Verdict.SUPPORTED)
    verdict = Verdict.CONTRADICTED if Verdict.CONTRADICTED in verdicts else Verdict.UNDECIDED
    verdict = Verdict.SUPPORTED if equal == len(verdicts) else verdict
    differ = sum(WITHIN in number.note for number in numbers)
    reason = f"Two one-sided signed-rank tests each: equal within the margins in {equal} of {len(verdicts)} metrics"
    reason += f"; {differ} of them differ from FP32, but by less than the margin" if differ else ""
    return EIGHT_EQUAL.judged(group, verdict, f"{reason}.", numbers)


WITHIN = "differs, but by less than the margin"
"""Said where a difference is significant and the two precisions count as equal all the same."""


def _equality(label: str, differences: np.ndarray, margin: float) -> Number:
    """One metric; its p-value is that of the two one-sided tests, and agrees with the interval and the margin."""
    shift = shift_of(differences)
    note, verdict = f"margin ±{margin:.3g}, {shift.pairs} pairs", Verdict.UNDECIDED
    if shift.low is not None and shift.high is not None:
        if -margin < shift.low and shift.high < margin:
            verdict = Verdict.SUPPORTED
            note += f"; {WITHIN}" if shift.sign() else ""
        elif shift.low > margin or shift.high < -margin:
            verdict = Verdict.CONTRADICTED
    return Number(
        label=label,
        value=shift.value,
        low=shift.low,
        high=shift.high,
        p_value=signed_rank_equivalence(differences, margin),
        verdict=verdict,
        note=note,
        method=f"{shift.method}, two one-sided" if shift.p_value is not None else "",
    )


def flatter(found: Sequence[Quantity], quantization: pd.Series, configuration: pd.Series, *, group: str) -> Claim:
    """Whether quantized models are flatter than FP32, for each measure, convention and precision.

    A measure is smaller where a minimum is flatter. The signed-rank test, for all of them at once.
    """
    rows: list[tuple[str, np.ndarray, bool]] = []
    for quantity in found:
        table = matched(quantity.values, quantization, configuration)
        bounds = matched(_as_number(quantity.saturated), quantization, configuration)
        reference = reference_of(table)
        for one in columns_of(table):
            if reference is None or one == reference:
                continue
            both = table[[one, reference]].dropna()
            if both.empty:
                continue
            saturated = bool(bounds[[one, reference]].to_numpy().any())
            difference = (both[one] - both[reference]).to_numpy(dtype=np.float64)
            rows.append((f"{quantity.label}: {one} − {reference}", difference, saturated))
    if not rows:
        return FLATTER.judged(group, Verdict.NO_DATA, "No flatness was measured at two precisions.")
    numbers = []
    for (label, difference, saturated), shift in zip(rows, simultaneous([one for _, one, _ in rows]), strict=True):
        share = f"flatter in {int((difference < 0).sum())} of {len(difference)}"
        numbers.append(number_of(label, shift, towards=-1, note=share + (", saturated" if saturated else "")))
    return FLATTER.judged(group, *_of_flatness(numbers), numbers)


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


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of claims that all have to hold."""
    yes, no = verdicts.count(Verdict.SUPPORTED), verdicts.count(Verdict.CONTRADICTED)
    partly = verdicts.count(Verdict.PARTLY)
    if yes == len(verdicts):
        return Verdict.SUPPORTED
    if (yes or partly) and no <= yes:
        return Verdict.PARTLY
    return Verdict.CONTRADICTED if no else Verdict.UNDECIDED


def reference_of(table: pd.DataFrame) -> Quantization | None:
    """The column of full precision."""
    return next((one for one in columns_of(table) if one.is_full), None)


def _of_bits(table: pd.DataFrame, bits: int) -> Quantization | None:
    return next((one for one in columns_of(table) if one.bits == bits), None)


def _as_number(flags: pd.Series | None) -> pd.Series:
    return pd.Series(dtype=float) if flags is None else flags.astype(float)


def _p(value: float | None) -> str:
    if value is None:
        return "no test"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
