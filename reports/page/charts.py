"""The page's charts as data: what `assets/charts.js` draws, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from qsweep.reports.analysis.analysis import GAP, Association, Models
from qsweep.reports.analysis.measured import quantities
from qsweep.reports.analysis.pairing import Paired
from qsweep.reports.evidence import Evidence
from qsweep.reports.labels import FEW, MEASURE_TITLES, METRICS, TRAINED, difference_label, short_layer, tau_text
from qsweep.reports.page.joblist import JobList, rounded
from qsweep.reports.series import box, by_bits, curves, effects, step_sizes, timeline
from qsweep.reports.table import PRECISION_ORDER, precision_name
from qsweep.sweeps.kinds import KINDS, TRAIN

Chart = dict[str, Any]
SLOTS = {name: slot for slot, name in enumerate(("FP32", "Int8", "Int4", "Int2", "Int3", "Int5", "Int6", "Int7"))}
"""The colour, marker and dash of each precision."""
NAMES = list(SLOTS)


def make_charts(evidence: Evidence, jobs: JobList) -> dict[str, Chart]:
    """Every chart for which there are data."""
    charts = {"progress": _progress(evidence)}
    for number, models in enumerate(evidence.models):
        found = {
            "distributions": _distributions(models, jobs),
            "paired": _paired([one for group, one in evidence.analysis.comparisons if group == models.group]),
            "effects": _effects(models, evidence),
            "curves": _curves(models, evidence),
            "scatter": _scatter(models, evidence, jobs),
            "signs": _signs([one for one in evidence.analysis.associations if one.group == models.group]),
            "steps": _steps(models, evidence),
        }
        charts |= {f"{name}-{number}": chart for name, chart in found.items()}
    return {name: chart for name, chart in charts.items() if chart}


def _precisions(models: Models) -> list[tuple[str, pd.DataFrame]]:
    """The precisions there are, highest first, with their models."""
    return [(precision_name(bits), group) for bits, group in by_bits(models.runs)]


def _axis(values: Sequence[float | None], *, label: str = "", log: bool = False, short: str = "") -> dict[str, Any]:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    kind = "log" if log and low > 0 else "linear"
    return {"type": kind, "low": rounded(low), "high": rounded(high), "label": label, "short": short or label}


def _short(values: Any) -> list[float | int | None]:
    return [rounded(value) for value in values]


def _progress(evidence: Evidence) -> Chart | None:
    kinds = evidence.jobs.set_index("job")["kind"]
    found = timeline(evidence.attempts, kinds)
    if found is None:
        return None
    names = [KINDS[kind].plural for kind in found.done]
    time = {
        "type": "linear",
        "low": 0,
        "high": rounded(found.edges[-1]),
        "label": f"time ({found.unit})",
        "tight": True,
    }
    lines, bars = [], []
    base = np.zeros(len(found.edges) - 1)
    for series, kind in enumerate(found.done):
        lines.append(
            {"type": "line", "solid": True, "series": series + 1, "x": _short(found.times), "y": found.done[kind]}
        )
        rates = np.array(found.rates[kind])
        bars.append(
            {
                "type": "bars",
                "series": series + 1,
                "edges": _short(found.edges),
                "y": _short(rates),
                "base": _short(base),
                "unit": found.unit,
            }
        )
        base = base + rates
    most = max(max(one) for one in found.done.values())
    return {
        "names": ["", *names],
        "minimum": 330,
        "columns": 2,
        "lines": "solid",
        "panels": [
            {
                "title": "Jobs done",
                "x": {**time, "short": found.unit},
                "y": _axis([0.0, float(most)], label="jobs"),
                "marks": lines,
            },
            {
                "title": "Throughput",
                "x": {**time, "short": found.unit},
                "y": _axis([0.0, float(base.max())], label="jobs per minute"),
                "marks": bars,
            },
        ],
    }


def _distributions(models: Models, jobs: JobList) -> Chart:
    found = _precisions(models)
    panels = []
    for metric, (title, label, factor) in METRICS.items():
        marks = []
        for place, (name, group) in enumerate(found):
            values = group[metric] * factor
            rows = jobs.rows(TRAIN.name, group.index)
            if rows is not None:
                dots = {"type": "dots", "series": SLOTS[name], "x": place, "y": _short(values), "jobs": rows}
                marks.append(dots)
            summary = box(values)
            if rows is not None and summary.count < FEW:
                continue
            marks.append(
                {
                    "type": "box",
                    "x": place,
                    "mean": rounded(summary.mean),
                    "quantiles": _short(summary.quantiles),
                    "count": summary.count,
                    "label": name,
                }
            )
        marks.sort(key=lambda mark: mark["type"] == "box")
        every = [float(value) for value in models.runs[metric] * factor]
        panels.append(
            {
                "title": title,
                "x": {"type": "category", "labels": [name for name, _ in found]},
                "y": _axis(every, label=label),
                "marks": marks,
            }
        )
    return {"names": NAMES, "panels": panels, "minimum": 300, "columns": 2, "legend": False}


def _paired(comparisons: Sequence[Paired]) -> Chart | None:
    if not comparisons:
        return None
    panels = []
    for metric, (title, _, factor) in METRICS.items():
        rows = [one for one in comparisons if one.metric == metric]
        ends = [factor * value for one in rows for value in (one.low, one.high, one.difference) if value is not None]
        marks: list[dict[str, Any]] = [{"type": "rule", "x": 0}]
        for place, one in enumerate(rows):
            low, high = (None if value is None else rounded(factor * value) for value in (one.low, one.high))
            points = " points" if factor != 1 else ""
            tip = f"{one.precision} − FP32: {factor * one.difference:+.4g}{points}\nover {one.pairs} configurations"
            tip += (
                ""
                if one.low is None or one.high is None
                else f"\n95% {factor * one.low:+.4g} to {factor * one.high:+.4g}"
            )
            marks.append(
                {
                    "type": "interval",
                    "series": SLOTS[one.precision],
                    "y": [place],
                    "x": [rounded(factor * one.difference)],
                    "low": [low],
                    "high": [high],
                    "tips": [tip],
                }
            )
        panels.append(
            {
                "title": title,
                "x": _axis([0.0, *ends], label=difference_label(metric)),
                "y": {"type": "category", "labels": [one.precision for one in rows]},
                "rowHeight": 30,
                "marks": marks,
            }
        )
    return {"names": NAMES, "panels": panels, "minimum": 300, "columns": 2, "lines": "solid"}


def _effects(models: Models, evidence: Evidence) -> Chart | None:
    choices = []
    for metric, (title, label, factor) in METRICS.items():
        found = effects(models, evidence.spec.axes, metric)
        ends = [
            factor * (mean + side * 1.96 * (error or 0.0))
            for one in found
            for mean, error in zip(one.means, one.errors, strict=True)
            for side in (-1, 1)
            if mean is not None
        ]
        panels: dict[str, Any] = {}
        for one in found:
            panel = panels.setdefault(
                one.hyperparameter,
                {
                    "title": one.hyperparameter.replace("_", " "),
                    "x": {"type": "category", "labels": list(one.labels)},
                    "y": _axis(ends, label=label),
                    "marks": [],
                },
            )
            pairs = list(zip(one.means, one.errors, strict=True))
            name = precision_name(one.bits)
            panel["marks"].append(
                {
                    "type": "line",
                    "points": True,
                    "series": SLOTS[name],
                    "x": list(range(len(one.labels))),
                    "y": [None if mean is None else rounded(factor * mean) for mean, _ in pairs],
                    **{
                        side: [
                            None if mean is None or error is None else rounded(factor * (mean + sign * 1.96 * error))
                            for mean, error in pairs
                        ]
                        for side, sign in (("low", -1), ("high", 1))
                    },
                }
            )
        if panels:
            choices.append({"label": title, "panels": list(panels.values())})
    if not choices:
        return None
    return {"names": NAMES, "choices": choices, "choose": "Effect on", "minimum": 240, "columns": 3, "lines": "solid"}


def _curves(models: Models, evidence: Evidence) -> Chart | None:
    panels = []
    for metric, (title, label, factor) in TRAINED.items():
        found = curves(evidence.epochs, models, metric)
        if found.empty:
            continue
        marks = []
        for bits, rows in by_bits(found):
            series, x = SLOTS[precision_name(bits)], rows["epoch"].tolist()
            band = {side: _short(rows[side] * factor) for side in ("low", "high")}
            marks.append({"type": "band", "series": series, "x": x, **band})
            marks.append({"type": "line", "series": series, "x": x, "y": _short(rows["median"] * factor)})
        marks.sort(key=lambda mark: mark["type"] == "line")
        ends = [float(value) * factor for side in ("low", "high") for value in found[side]]
        panels.append(
            {
                "title": title,
                "x": _axis(found["epoch"].astype(float).tolist(), label="epoch") | {"tight": True},
                "y": _axis(ends, label=label, log=factor == 1),
                "hover": "x",
                "marks": marks,
            }
        )
    return {"names": NAMES, "panels": panels, "minimum": 330, "columns": 2, "lines": "dashed"} if panels else None


def _scatter(models: Models, evidence: Evidence, jobs: JobList) -> Chart | None:
    gap = models.runs[GAP]
    taus = {
        (one.name, one.convention): one.kendall.tau
        for one in evidence.analysis.associations
        if one.group == models.group
    }
    choices: dict[str, Any] = {}
    for quantity in quantities(evidence.spec, models.runs, evidence.measures):
        values = quantity.values.reindex(gap.index).dropna()
        if values.empty:
            continue
        tau = taus.get((quantity.name, quantity.convention))
        marks = []
        for name, group in _precisions(models):
            here = values[values.index.isin(group.index)]
            mark = {"type": "dots", "series": SLOTS[name], "x": _short(here), "y": _short(gap[here.index])}
            rows = jobs.rows(TRAIN.name, here.index)
            mark |= {"jobs": rows} if rows is not None else {}
            marks.append(mark)
        logarithmic = bool((values > 0).all() and values.max() > 20 * values.min())
        title = f"{MEASURE_TITLES[quantity.name]}   {tau_text(tau, len(values))}"
        label = quantity.convention or "norms and loss of every model"
        choices.setdefault(label, {"label": label, "panels": []})["panels"].append(
            {
                "title": title,
                "kind": "scatter",
                "x": _axis(values.tolist(), label=MEASURE_TITLES[quantity.name], log=logarithmic),
                "y": _axis(gap.tolist(), label="generalization gap (nats)"),
                "marks": marks,
            }
        )
    if not choices:
        return None
    ordered = sorted(choices.values(), key=lambda one: one["label"].startswith("norms"))
    return {"names": NAMES, "choices": ordered, "choose": "Quantities", "minimum": 270, "columns": 3}


def _signs(associations: Sequence[Association]) -> Chart | None:
    found = [one for one in associations if any(each.pairs >= FEW for each in one.environments)]
    if not found:
        return None
    labels: list[str] = []
    marks: list[dict[str, Any]] = [{"type": "rule", "x": 0.5}]
    for place, one in enumerate(found):
        name = MEASURE_TITLES.get(one.name, one.name.replace("_", " "))
        labels.append(f"{name} · {one.convention}" if one.convention else name)
        environments = [each for each in one.environments if each.pairs >= FEW]
        errors = [each.error for each in environments]
        tips = [
            f"{each.hyperparameter.replace('_', ' ')}: values {each.low + 1} and {each.high + 1}\n"
            f"sign-error {each.error:.2f} over {each.pairs} pairs"
            for each in environments
        ]
        count = len(errors)
        blank = [None] * count
        dots = {"type": "interval", "series": 0, "opacity": 0.5, "y": [place] * count, "x": _short(errors)}
        marks.append(dots | {"low": blank, "high": blank, "tips": tips})
        mean = float(np.mean(errors))
        marks.append(
            {
                "type": "interval",
                "series": 3,
                "y": [place],
                "x": [rounded(mean)],
                "low": [None],
                "high": [None],
                "tips": [f"mean {mean:.2f}\nover {count} environments"],
            }
        )
    axis = {"type": "linear", "low": 0, "high": 1, "label": "sign-error", "short": "sign-error"}
    panel = {"title": "", "x": axis, "y": {"type": "category", "labels": labels}, "rowHeight": 24, "marks": marks}
    names = ["one environment", "", "", "mean"]
    return {"names": names, "panels": [panel], "minimum": 300, "columns": 1}


def _steps(models: Models, evidence: Evidence) -> Chart | None:
    found = step_sizes(evidence.layers, models)
    if found.empty:
        return None
    ends = [float(value) for side in ("low", "high") for value in found[side]]
    panels = []
    for network, rows in found.groupby("network", sort=False):
        layers = rows.drop_duplicates("index").sort_values("index")
        places = {index: place for place, index in enumerate(layers["index"])}
        marks = []
        for bits, group in by_bits(rows):
            ordered = group.sort_values("index")
            marks.append(
                {
                    "type": "line",
                    "points": True,
                    "series": SLOTS[precision_name(bits)],
                    "x": [places[index] for index in ordered["index"]],
                    "y": _short(ordered["median"]),
                    "low": _short(ordered["low"]),
                    "high": _short(ordered["high"]),
                }
            )
        panels.append(
            {
                "title": str(network),
                "x": {"type": "category", "labels": [short_layer(name) for name in layers["layer"]]},
                "y": _axis(ends, label="step size s", log=True),
                "hover": "x",
                "marks": marks,
            }
        )
    return {"names": NAMES, "panels": panels, "minimum": 300, "columns": 3, "lines": "solid"}


assert set(NAMES) == set(PRECISION_ORDER)
