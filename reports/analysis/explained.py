"""Which settings the returned numbers of a sweep go with: of runs of a user's functions or commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from scipy import special

from qsweep.reports.analysis.correlation import kendall
from qsweep.reports.analysis.pairing import holm
from qsweep.reports.analysis.text import p_text, shown, table
from qsweep.reports.returned import Returned, Varied
from qsweep.reports.sheet import Part, Sheet
from qsweep.sweeps.text import jsonable


@dataclass(frozen=True, kw_only=True)
class Explained:
    """How one returned number goes with one setting, over the `runs` that have it.

    `share` is η², the sum of squares between the setting's values over the whole one; `tau` Kendall's τ-b, where the
    values are numbers; `p_value` that of Kruskal and Wallis's test of no difference between the values, asymptotic,
    after Holm over all of a sweep's. None where a side is constant.
    """

    number: str
    setting: str
    values: int
    runs: int
    share: float | None
    tau: float | None
    p_value: float | None


HEADER = ("Number", "Setting", "Values", "Runs", "η²", "τ", "p")
NOTES = (
    "η²: the share of a number's variance that lies between the values of one setting, over all runs and all other "
    "settings; τ: Kendall's τ-b, where the values are numbers (positive: larger goes with larger).",
    "p: Kruskal and Wallis's test that the values of a setting make no difference, asymptotic, after Holm over all "
    "rows. A grid is no random sample: it speaks of settings like those of the grid.",
)


def explain(found: Returned) -> tuple[Explained, ...]:
    """Every returned number by every setting that varies."""
    raw = [_explained(found.numbers[name].dropna(), axis) for name in found.numbers for axis in found.axes]
    adjusted = holm([one.p_value for one in raw])
    return tuple(replace(one, p_value=p_value) for one, p_value in zip(raw, adjusted, strict=True))


def _explained(values: pd.Series, axis: Varied) -> Explained:
    places = axis.places.reindex(values.index)
    count = places.nunique()
    varies = count > 1 and values.nunique() > 1
    return Explained(
        number=str(values.name),
        setting=axis.name,
        values=count,
        runs=len(values),
        share=between(values, places) if varies else None,
        tau=kendall(places.astype(float), values).tau if axis.ordered else None,
        p_value=kruskal_wallis(values, places) if varies else None,
    )


def between(values: pd.Series, groups: pd.Series) -> float:
    """The sum of squares between the groups over the whole one: η², or ε² of ranks."""
    means = values.groupby(groups).transform("mean")
    return float(((means - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def kruskal_wallis(values: pd.Series, groups: pd.Series) -> float:
    """P(χ² ≥ H) with H = (N − 1)·(sum of squares of the ranks between the groups over the whole one), ties at mean
    ranks, and a degree of freedom less than there are groups (Kruskal and Wallis 1952)."""
    statistic = (len(values) - 1) * between(values.rank(), groups)
    return float(special.chdtrc(groups.nunique() - 1, statistic))


def explained_cells(one: Explained) -> list[str]:
    """The cells below HEADER."""
    return [
        one.number,
        one.setting,
        str(one.values),
        str(one.runs),
        shown(one.share, 3),
        shown(one.tau, 2, signed=True),
        p_text(one.p_value),
    ]


def returned_parts(title: str, found: Returned, explained: Sequence[Explained]) -> list[Part]:
    """What runs say, as it is printed."""
    head = f"# {title}: {len(found.numbers)} of {found.expected} runs of {found.noun}"
    head += f", {found.diverged} of them diverged" if found.diverged else ""
    if not explained:
        return [head, "No run has returned a number yet, or nothing varies but the seed."]
    rows = [explained_cells(one) for one in explained]
    notes = "\n".join(f"- {note}" for note in NOTES)
    means = [_means(found, axis) for axis in found.axes]
    return [head, "## What goes with what", table(HEADER, rows, texts=2), notes, "## Means", *means]


def _means(found: Returned, axis: Varied) -> Sheet:
    """The mean of each number at each value of a setting, with its standard error."""
    rows = []
    for place, label in enumerate(axis.labels):
        here = found.numbers[axis.places == place]
        rows.append([label, *(_mean(here[name].dropna()) for name in found.numbers), str(len(here))])
    return table([axis.name, *found.numbers, "Runs"], rows, texts=1)


def _mean(values: pd.Series) -> str:
    error = f" ± {shown(float(values.std() / len(values) ** 0.5))}" if len(values) > 1 else ""
    return shown(float(values.mean()) if len(values) else None) + error


def returned_content(title: str, found: Returned, explained: Sequence[Explained]) -> dict[str, Any]:
    """The same for JSON: full precision, None where undefined."""
    return dict(
        jsonable(
            {
                "sweep": title,
                "expected": found.expected,
                "done": len(found.numbers),
                "diverged": found.diverged,
                "explained": [asdict(one) for one in explained],
            }
        )
    )
