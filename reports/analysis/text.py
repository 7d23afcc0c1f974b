"""An analysis as Markdown, and as the content of its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from reports.analysis.analysis import Analysis, Association, Options
from reports.analysis.claims import Claim, Number
from reports.analysis.correlation import RESAMPLED, Environment
from reports.analysis.pairing import ALPHA, Paired
from reports.analysis.ranks import SIGNED_PAIRS
from reports.escaping import markdown
from reports.outliers import RULE

MISSING = "–"


def analysis_content(analysis: Analysis) -> dict[str, Any]:
    """Everything that was found, for JSON: full precision, None where undefined."""
    content = asdict(analysis)
    content["comparisons"] = [{"group": group, **asdict(one)} for group, one in analysis.comparisons]
    return dict(_finite(content))


def render_analysis(analysis: Analysis) -> str:
    """The analysis as Markdown that ends with a newline, equal for equal results."""
    head = f"# {markdown(analysis.sweep)}: {analysis.done} of {analysis.expected} models"
    if analysis.left_out:
        head += f", {analysis.left_out} of them diverged and left out"
    parts = [head, *outside_notes(analysis), "## The paper's claims", _claims(analysis.claims)]
    parts += [*_numbers(analysis.claims), claim_note(analysis.options)]
    if analysis.comparisons:
        parts += ["## Each precision against FP32, over matched configurations", _comparisons(analysis)]
        parts.append(_listed(comparison_notes()))
    if analysis.associations:
        parts += ["## What goes with the generalization gap", _associations(analysis.associations)]
        parts.append(_listed(ASSOCIATION_NOTES))
    return "\n\n".join(parts) + "\n"


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


def _claims(claims: Sequence[Claim]) -> str:
    rows = [[claim.group, claim.statement, claim.where, str(claim.verdict), reason_of(claim)] for claim in claims]
    return table(["Models", "Claim", "Paper", "Verdict", "Why"], rows, texts=5)


def reason_of(claim: Claim) -> str:
    """Why a claim has its verdict, and what limits it."""
    return f"{claim.reason} {claim.note[0].upper()}{claim.note[1:]}." if claim.note else claim.reason


def _numbers(claims: Sequence[Claim]) -> list[str]:
    parts = []
    for claim in claims:
        if claim.numbers:
            rows = [_number(number) for number in claim.numbers]
            header = ["Quantity", "Verdict", "Note", "Value", "95% interval", "p", "Test"]
            parts.append(f"**{markdown(claim.statement)}** — {markdown(claim.group)}\n\n{table(header, rows, texts=3)}")
    return parts


def _number(number: Number) -> list[str]:
    return [
        number.label,
        str(number.verdict or ""),
        number.note,
        shown(number.value),
        span(number.low, number.high),
        "" if number.p_value is None else p_text(number.p_value),
        number.method,
    ]


def _comparisons(analysis: Analysis) -> str:
    rows = [[group, one.metric, one.precision, *comparison_cells(one)] for group, one in analysis.comparisons]
    header = ["Models", "Metric", "Precision", *COMPARISON_HEADER]
    return table(header, rows, texts=3)


COMPARISON_HEADER = ("FP32", "Mean", "Difference", "95% interval", "p (signed rank)", "Improved", "Pairs")


def comparison_cells(one: Paired) -> list[str]:
    """The cells below COMPARISON_HEADER."""
    return [
        shown(one.reference),
        shown(one.mean),
        shown(one.difference, signed=True),
        span(one.low, one.high, signed=True),
        p_text(one.adjusted_p),
        f"{100 * one.improved:.0f}% [{100 * one.improved_low:.0f}, {100 * one.improved_high:.0f}]",
        str(one.pairs),
    ]


def _associations(associations: Iterable[Association]) -> str:
    rows = [[one.group, one.name, one.convention, *association_cells(one)] for one in associations]
    return table(["Models", "Quantity", "Convention", *ASSOCIATION_HEADER], rows, texts=3)


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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """An aligned Markdown table, its first `texts` columns to the left."""
    lines = [[markdown(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    rule = ["-" * width if index < texts else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def shown(value: float | None, decimals: int = 4, *, signed: bool = False) -> str:
    """A number, or a dash; large and tiny ones by four significant digits. Zero has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    sign = "+" if signed and value else ""
    if (value and round(abs(value), decimals) == 0) or abs(value) >= 1e4:
        return f"{value:{sign}.3e}"
    return f"{value:{sign}.{decimals}f}"


def span(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """An interval, or nothing."""
    return "" if low is None or high is None else f"[{shown(low, signed=signed)}, {shown(high, signed=signed)}]"


def p_text(value: float | None) -> str:
    """A p-value as journals print it."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
