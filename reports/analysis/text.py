"""An analysis as Markdown, and as the content of its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qsweep.reports.analysis.analysis import Analysis, Association, Options
from qsweep.reports.analysis.claims import Claim, Number
from qsweep.reports.analysis.correlation import RESAMPLED, Environment
from qsweep.reports.analysis.methods import SIGNS, FlatOrSharp
from qsweep.reports.analysis.pairing import ALPHA, Paired
from qsweep.reports.analysis.ranks import SIGNED_PAIRS
from qsweep.reports.outliers import RULE
from qsweep.reports.sheet import Heading, Part, Sheet, document
from qsweep.sweeps.text import jsonable

MISSING = "–"


def analysis_content(analysis: Analysis) -> dict[str, Any]:
    """Everything that was found, for JSON: full precision, None where undefined."""
    content = asdict(analysis)
    if not analysis.flat_or_sharp:
        del content["flat_or_sharp"]
    content["comparisons"] = [
        {"group": group, **asdict(one), "precision": str(one.precision)} for group, one in analysis.comparisons
    ]
    return dict(jsonable(content))


def render_analysis(analysis: Analysis) -> str:
    """The analysis as Markdown that ends with a newline, equal for equal results."""
    return document(analysis_parts(analysis))


def analysis_parts(analysis: Analysis) -> list[Part]:
    """The analysis as it is printed: headings, tables and what a reader has to know of them."""
    head = f"# {analysis.sweep}: {analysis.done} of {analysis.expected} models"
    if analysis.left_out:
        head += f", {analysis.left_out} of them diverged and left out"
    parts: list[Part] = [head, *outside_notes(analysis), *_answers(analysis.flat_or_sharp)]
    parts += ["## The paper's claims", _claims(analysis.claims)]
    parts += [*_numbers(analysis.claims), claim_note(analysis.options)]
    if analysis.comparisons:
        parts += ["## Each precision against FP32, over matched configurations", _comparisons(analysis)]
        parts.append(_listed(comparison_notes()))
    if analysis.associations:
        parts += ["## What goes with the generalization gap", _associations(analysis.associations)]
        parts.append(_listed(ASSOCIATION_NOTES))
    return parts


def _answers(found: Sequence[FlatOrSharp]) -> list[Part]:
    parts: list[Part] = ["## Flat or sharp?"] if found else []
    for one in found:
        rows = [[search, convention, *marks] for search, convention, marks in one.by_search()]
        answers = [
            (f"- {each.question} {each.verdict}", *(f"  - {line}" for line in each.details)) for each in one.answers()
        ]
        parts += [f"### {one.group}", "\n".join(line for lines in answers for line in lines)]
        parts.append(table(["Measure", "Convention", *one.names], rows, texts=2))
    return [*parts, SIGNS] if found else parts


def outside_notes(analysis: Analysis) -> list[str]:
    """The models that count although their losses are outside of reason."""
    if not analysis.outside:
        return []
    names = ", ".join(identity[:12] for identity in analysis.outside)
    return [f"Counted, but with {RULE}: {len(analysis.outside)} ({names})."]


ASSOCIATION_NOTES = (
    "τ: Kendall's τ-b over all models; p after Holm: exact for few models, by drawn permutations for up to "
    f"{RESAMPLED} models with ties, asymptotic beyond. A positive τ: larger goes with a larger gap.",
    "Ψ and ψ: the granulated coefficient (Jiang et al. 2019) over models that differ in one hyperparameter alone.",
    "Sign-error (Dziugaite et al. 2020): how often a pair of models that differ in one hyperparameter alone is ordered "
    "the wrong way; 0.5 is a coin flip. Mean and worst over the environments (a hyperparameter and two of its values). "
    "Filtered: on the gap of accuracies, weighted by how surely two gaps differ, with the effective number of pairs.",
)


def comparison_notes() -> tuple[str, ...]:
    """What a reader has to know of the paired comparisons."""
    return (
        "A difference is precision − FP32 over configurations that differ in nothing else: the Hodges–Lehmann estimate "
        "(the median of the means of two differences), with the p-value of the signed-rank test and the interval of "
        "all shifts which that test does not reject. Both hold for all comparisons of a group at once (Bonferroni). "
        f"Exact up to {SIGNED_PAIRS} pairs; ties that leave a sign open count against an effect. Improved: the share "
        "of configurations with a smaller gap or loss, or a higher accuracy (ties half), with its 95% interval "
        "(Clopper–Pearson).",
        "Accuracies in percent, their differences in percentage points.",
        "A grid is no random sample: intervals and tests speak of configurations like those of the grid.",
    )


def claim_note(options: Options) -> str:
    """What a verdict means."""
    margins = options.margins
    return (
        f"A trend goes by Page's test (p ≤ {ALPHA}), a difference by its interval, which leaves out 0 exactly where "
        f"the signed-rank test has p ≤ {ALPHA}; the differences within a claim are judged together (Bonferroni), and "
        "there is no interval where too few pairs are done for one. Differences run as the claim's words do: as bits "
        "fall. "
        f"Equal means that the interval lies within ±{100 * margins.relative:g}% of FP32's mean for losses and the "
        f"gap, ±{100 * margins.accuracy:g} points for accuracies; its p is that of two one-sided tests. "
        "Undecided: neither."
    )


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int, title: str = "", subtitle: str = ""
) -> Sheet:
    """A sheet whose first `texts` columns are texts."""
    return Sheet(
        headings=tuple(
            Heading(name=name, numeric=index >= texts and name not in WORDS) for index, name in enumerate(header)
        ),
        rows=tuple(tuple(row) for row in rows),
        title=title,
        subtitle=subtitle,
    )


def _claims(claims: Sequence[Claim]) -> Sheet:
    rows = [[claim.group, claim.statement, claim.where, str(claim.verdict), reason_of(claim)] for claim in claims]
    return table(["Models", "Claim", "Paper", "Verdict", "Why"], rows, texts=5)


def reason_of(claim: Claim) -> str:
    """Why a claim has its verdict, and what limits it."""
    return f"{claim.reason} {claim.note[0].upper()}{claim.note[1:]}." if claim.note else claim.reason


def _numbers(claims: Sequence[Claim]) -> list[Sheet]:
    header = ["Quantity", "Verdict", "Note", "Value", "95% interval", "p", "Test"]
    return [
        table(header, map(_number, claim.numbers), texts=3, title=claim.statement, subtitle=claim.group)
        for claim in claims
        if claim.numbers
    ]


def _number(number: Number) -> list[str]:
    return [
        number.label,
        str(number.verdict or ""),
        number.note,
        quantity_text(number),
        quantity_span(number),
        "" if number.p_value is None else p_text(number.p_value),
        number.method,
    ]


def quantity_text(number: Number) -> str:
    """The value of a quantity: accuracies in percent."""
    if number.value is None or not _is_accuracy(number.label):
        return shown(number.value)
    return f"{shown(100 * number.value, 2)}%" if " at " in number.label else f"{shown(100 * number.value, 2)} points"


def quantity_span(number: Number) -> str:
    """The interval of a quantity: accuracies in percent."""
    if number.low is None or number.high is None or not _is_accuracy(number.label):
        return span(number.low, number.high)
    return f"[{shown(100 * number.low, 2)}, {shown(100 * number.high, 2)}]"


def _is_accuracy(name: str) -> bool:
    return "accuracy" in name


def _comparisons(analysis: Analysis) -> Sheet:
    rows = [[group, one.metric, str(one.precision), *comparison_cells(one)] for group, one in analysis.comparisons]
    header = ["Models", "Metric", "Precision", *COMPARISON_HEADER]
    return table(header, rows, texts=3)


COMPARISON_HEADER = ("FP32", "Mean", "Difference", "95% interval", "p (signed rank)", "Improved", "Pairs")


def comparison_cells(one: Paired) -> list[str]:
    """The cells below COMPARISON_HEADER."""
    factor, digits = (100.0, 2) if _is_accuracy(one.metric) else (1.0, 4)
    low, high = (None if value is None else factor * value for value in (one.low, one.high))
    return [
        shown(factor * one.reference, digits),
        shown(factor * one.mean, digits),
        shown(factor * one.difference, digits, signed=True),
        span(low, high, digits, signed=True),
        p_text(one.adjusted_p),
        f"{100 * one.improved:.0f}% [{100 * one.improved_low:.0f}, {100 * one.improved_high:.0f}]",
        str(one.pairs),
    ]


def _associations(associations: Iterable[Association]) -> Sheet:
    rows = [[one.group, one.name, one.convention, *association_cells(one)] for one in associations]
    return association_sheet(rows)


def association_sheet(rows: Sequence[Sequence[str]]) -> Sheet:
    """The table of associations. τ within each precision and ψ by hyperparameter are the first to be left out."""
    found = table(["Models", "Quantity", "Convention", *ASSOCIATION_HEADER], rows, texts=3)
    return replace(
        found,
        headings=tuple(replace(one, spare=SPARE.get(one.name, 0)) for one in found.headings),
    )


WORDS = ("τ within precisions", "ψ by hyperparameter", "Test")
"""Columns of texts behind numbers."""
SPARE = {"ψ by hyperparameter": 6, "τ within precisions": 5, "filtered": 4, "worst": 3, "Ψ": 2, "Sign-error: mean": 1}


ASSOCIATION_HEADER = (
    "τ",
    "p",
    "n",
    "τ within precisions",
    "Ψ",
    "ψ by hyperparameter",
    "Sign-error: mean",
    "worst",
    "filtered",
)


def association_cells(one: Association) -> list[str]:
    """The cells below ASSOCIATION_HEADER."""
    taus = {name: found.tau for name, found in one.by_precision.items() if found.tau is not None}
    within = " ".join(f"{name} {shown(tau, 2, signed=True)}" for name, tau in taus.items())
    own = {name: value for name, value in one.granulated.by_hyperparameter.items() if value is not None}
    fine = " ".join(f"{name} {shown(value, 2, signed=True)}" for name, value in own.items())
    errors = [environment.error for environment in one.environments]
    worst = max(one.environments, key=lambda each: each.error, default=None)
    return [
        shown(one.kendall.tau, 3, signed=True),
        p_text(one.adjusted_p),
        str(one.kendall.models),
        within or MISSING,
        shown(one.granulated.overall, 3, signed=True),
        fine or MISSING,
        shown(float(np.mean(errors)) if errors else None, 2),
        MISSING if worst is None else f"{worst.error:.2f} ({worst.hyperparameter})",
        _filtered(one.weighted),
    ]


def _filtered(environments: Sequence[Environment]) -> str:
    if not environments:
        return MISSING
    errors = [one.error for one in environments]
    effective = sum(one.effective for one in environments)
    return f"{float(np.mean(errors)):.2f} ({effective:.0f} pairs)"


def shown(value: float | None, decimals: int = 4, *, signed: bool = False) -> str:
    """A number, or a dash; large and tiny ones by four significant digits. Zero has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    sign = "+" if signed and value else ""
    if (value and round(abs(value), decimals) == 0) or abs(value) >= 1e4:
        return f"{value:{sign}.3e}"
    return f"{value:{sign}.{decimals}f}"


def span(low: float | None, high: float | None, decimals: int = 4, *, signed: bool = False) -> str:
    """An interval, or nothing."""
    if low is None or high is None:
        return ""
    return f"[{shown(low, decimals, signed=signed)}, {shown(high, decimals, signed=signed)}]"


def p_text(value: float | None) -> str:
    """A p-value as journals print it."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
