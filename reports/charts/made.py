"""The charts of a sweep, made from its evidence; None where there are no data for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qsweep.reports.analysis.analysis import GAP, Association, Models
from qsweep.reports.analysis.measured import quantities
from qsweep.reports.analysis.pairing import Paired
from qsweep.reports.charts.chart import (
    Axis,
    Band,
    Bars,
    BoxPlot,
    Categories,
    Chart,
    Choice,
    Dots,
    Intervals,
    Line,
    Mark,
    Panel,
    Rule,
    axis_of,
)
from qsweep.reports.evidence import Evidence
from qsweep.reports.labels import FEW, MEASURE_TITLES, METRICS, TRAINED, difference_label, short_layer, tau_text
from qsweep.reports.quantization import series_names
from qsweep.reports.series import NORMAL, Effect, Timeline, box, by_quantization, curves, effects, step_sizes
from qsweep.sweeps.kinds import KINDS


def _names(models: Models) -> tuple[str, ...]:
    """The series of what the models are called, by their slots."""
    return tuple(series_names(models.runs["quantization"]))


def progress_chart(found: Timeline) -> Chart:
    """Jobs done and throughput over time."""
    since = f"time since {found.start:%Y-%m-%d %H:%M} UTC ({found.unit})"
    time = Axis(
        low=0,
        high=found.edges[-1],
        label=f"time ({found.unit})",
        short=found.unit,
        tight=True,
        figure_label=since,
        figure_ticks=8,
    )
    lines, bars = list[Mark](), list[Mark]()
    base = np.zeros(len(found.edges) - 1)
    for series, (kind, counts) in enumerate(found.done.items(), 1):
        rates = found.rates[kind]
        lines.append(Line(solid=True, series=series, x=found.times, y=counts))
        bars.append(Bars(series=series, edges=found.edges, y=rates, base=base.tolist(), unit=found.unit))
        base = base + np.array(rates)
    most = float(max(max(counts) for counts in found.done.values()))
    return Chart(
        names=("", *(KINDS[kind].plural for kind in found.done)),
        panels=(
            Panel(title="Jobs done", x=time, y=axis_of([0.0, most], label="jobs"), marks=tuple(lines)),
            Panel(
                title="Throughput",
                x=time,
                y=axis_of([0.0, float(base.max())], label="jobs per minute"),
                marks=tuple(bars),
            ),
        ),
        minimum=330,
        columns=2,
        lines="solid",
    )


def distributions_chart(models: Models) -> Chart:
    """Each metric of every model, by precision."""
    groups = by_quantization(models.runs)
    labels = tuple(str(one) for one, _ in groups)
    panels = []
    for metric, (title, label, factor) in METRICS.items():
        dots, boxes = list[Mark](), list[Mark]()
        for place, (one, group) in enumerate(groups):
            values = group[metric] * factor
            dots.append(Dots(series=one.slot, x=place, y=values.tolist(), jobs=tuple(group.index)))
            boxes.append(BoxPlot(x=place, label=labels[place], **vars(box(values))))
        axis = axis_of((models.runs[metric] * factor).tolist(), label=label)
        panels.append(Panel(title=title, x=Categories(labels=labels), y=axis, marks=(*dots, *boxes)))
    return Chart(names=_names(models), panels=tuple(panels), minimum=300, columns=2, legend=False)


def paired_chart(models: Models, comparisons: Sequence[Paired]) -> Chart | None:
    """Each precision's differences from full precision, with their intervals."""
    if not comparisons:
        return None
    panels = []
    for metric, (title, _, factor) in METRICS.items():
        rows = [one for one in comparisons if one.metric == metric]
        ends = [factor * value for one in rows for value in (one.low, one.high, one.difference) if value is not None]
        panels.append(
            Panel(
                title=title,
                figure_title=f"{title}, minus FP32's",
                x=axis_of([0.0, *ends], label=difference_label(metric), figure_ticks=5),
                y=Categories(labels=tuple(str(one.precision) for one in rows)),
                row_height=30,
                marks=(Rule(x=0), *(_difference(one, place, factor) for place, one in enumerate(rows))),
            )
        )
    return Chart(names=_names(models), panels=tuple(panels), minimum=300, columns=2, lines="solid")


def _difference(one: Paired, place: int, factor: float) -> Intervals:
    points = " points" if factor != 1 else ""
    tip = f"{one.precision} − FP32: {factor * one.difference:+.4g}{points}\nover {one.pairs} configurations"
    if one.low is not None and one.high is not None:
        tip += f"\n95% {factor * one.low:+.4g} to {factor * one.high:+.4g}"
    return Intervals(
        series=one.precision.slot,
        y=[place],
        x=[factor * one.difference],
        low=[None if one.low is None else factor * one.low],
        high=[None if one.high is None else factor * one.high],
        tips=(tip,),
    )


def effects_chart(models: Models, evidence: Evidence) -> Chart | None:
    """The mean of each metric at each value of each hyperparameter: a choice a metric, a panel a hyperparameter."""
    choices = []
    for metric, (title, label, factor) in METRICS.items():
        found = effects(models, evidence.spec.axes, metric)
        lines = [(one, _effect(one, factor)) for one in found]
        ends = [end for _, line in lines for side in (line.low or (), line.high or (), line.y) for end in side]
        axis = axis_of(ends, label=label, figure_label=f"{title}{' (%)' if factor != 1 else ' (nats)'}", figure_ticks=4)
        panels = tuple(
            Panel(
                title=name.replace("_", " "),
                x=Categories(labels=next(one.labels for one in found if one.hyperparameter == name)),
                y=axis,
                marks=tuple(line for one, line in lines if one.hyperparameter == name),
            )
            for name in dict.fromkeys(one.hyperparameter for one in found)
        )
        if panels:
            choices.append(Choice(label=title, panels=panels))
    if not choices:
        return None
    return Chart(
        names=_names(models), choices=tuple(choices), choose="Effect on", minimum=240, columns=3, lines="solid"
    )


def _effect(one: Effect, factor: float) -> Line:
    pairs = list(zip(one.means, one.errors, strict=True))
    low, high = (
        [None if mean is None or error is None else factor * (mean + side * NORMAL * error) for mean, error in pairs]
        for side in (-1, 1)
    )
    means = [None if mean is None else factor * mean for mean in one.means]
    return Line(points=True, series=one.quantization.slot, x=range(len(means)), y=means, low=low, high=high)


def curves_chart(models: Models, evidence: Evidence) -> Chart | None:
    """The median of each epoch, and a band about it."""
    panels = []
    for metric, (title, label, factor) in TRAINED.items():
        found = curves(evidence.epochs, models, metric)
        if found.empty:
            continue
        bands, lines = list[Mark](), list[Mark]()
        for one, rows in by_quantization(found):
            x, low, median, high = (rows["epoch"].tolist(), *(_scaled(rows, factor, "low", "median", "high")))
            bands.append(Band(series=one.slot, x=x, low=low, high=high))
            lines.append(Line(series=one.slot, x=x, y=median))
        ends = [value for side in _scaled(found, factor, "low", "high") for value in side]
        panels.append(
            Panel(
                title=title,
                x=axis_of(found["epoch"].astype(float).tolist(), label="epoch", tight=True, figure_ticks=8),
                y=axis_of(ends, label=label, log=factor == 1),
                hover="x",
                marks=(*bands, *lines),
            )
        )
    if not panels:
        return None
    return Chart(names=_names(models), panels=tuple(panels), minimum=330, columns=2, lines="dashed")


def _scaled(rows: pd.DataFrame, factor: float, *names: str) -> list[list[float]]:
    return [(rows[name] * factor).tolist() for name in names]


def scatter_chart(models: Models, evidence: Evidence) -> Chart | None:
    """The gap of each model against each quantity: a choice a convention, a panel a quantity."""
    gap = models.runs[GAP]
    known = [one for one in evidence.analysis.associations if one.group == models.group]
    taus = {(one.name, one.convention): one.kendall.tau for one in known}
    found: dict[str, list[Panel]] = {}
    for quantity in quantities(evidence.spec, models.runs, evidence.measures):
        values = quantity.values.reindex(gap.index).dropna()
        if values.empty:
            continue
        title = MEASURE_TITLES[quantity.name]
        tau = tau_text(taus.get((quantity.name, quantity.convention)), len(values))
        spread = bool((values > 0).all() and values.max() > 20 * values.min())
        marks = []
        for one, group in by_quantization(models.runs):
            here = values[values.index.isin(group.index)]
            y = gap[here.index].tolist()
            marks.append(Dots(series=one.slot, x=here.tolist(), y=y, jobs=tuple(here.index)))
        panel = Panel(
            title=f"{title}   {tau}",
            figure_title=tau,
            kind="scatter",
            x=axis_of(values.tolist(), label=title, log=spread, figure_ticks=4),
            y=axis_of(gap.tolist(), label="generalization gap (nats)", figure_ticks=5),
            marks=tuple(marks),
        )
        found.setdefault(quantity.convention, []).append(panel)
    if not found:
        return None
    choices = [
        Choice(label=convention or NORMS, panels=tuple(found[convention]))
        for convention in sorted(found, key=lambda one: not one)
    ]
    return Chart(names=_names(models), choices=tuple(choices), choose="Quantities", minimum=270, columns=3)


NORMS = "norms and loss of every model"
"""The quantities that no convention was asked for."""


def signs_chart(associations: Sequence[Association]) -> Chart | None:
    """The sign-error of each quantity in each environment, and its mean."""
    found = [one for one in associations if any(each.pairs >= FEW for each in one.environments)]
    if not found:
        return None
    labels, marks = list[str](), list[Mark]([Rule(x=0.5)])
    for place, one in enumerate(found):
        name = MEASURE_TITLES.get(one.name, one.name.replace("_", " "))
        labels.append(f"{name} · {one.convention}" if one.convention else name)
        environments = [each for each in one.environments if each.pairs >= FEW]
        errors = [each.error for each in environments]
        tips = tuple(
            f"{each.hyperparameter.replace('_', ' ')}: values {each.low + 1} and {each.high + 1}\n"
            f"sign-error {each.error:.2f} over {each.pairs} pairs"
            for each in environments
        )
        mean = float(np.mean(errors))
        about = f"mean {mean:.2f}\nover {len(errors)} environments"
        marks += [_points(0, place, errors, tips, opacity=0.5), _points(3, place, [mean], (about,))]
    axis = Axis(low=0, high=1, label="sign-error", short="sign-error")
    panel = Panel(x=axis, y=Categories(labels=tuple(labels)), row_height=24, marks=tuple(marks))
    return Chart(names=("one environment", "", "", "mean"), panels=(panel,), minimum=300, columns=1)


def _points(
    series: int, place: int, x: Sequence[float], tips: tuple[str, ...], *, opacity: float | None = None
) -> Intervals:
    """Points of one row without intervals."""
    blank = [None] * len(x)
    return Intervals(series=series, opacity=opacity, y=[place] * len(x), x=x, low=blank, high=blank, tips=tips)


def steps_chart(models: Models, evidence: Evidence) -> Chart | None:
    """The median step size of each layer, and a range about it: a panel a network."""
    found = step_sizes(evidence.layers, models)
    if found.empty:
        return None
    axis = axis_of([*found["low"].tolist(), *found["high"].tolist()], label="step size s", log=True)
    panels = []
    for network, rows in found.groupby("network", sort=False):
        layers = rows.drop_duplicates("index").sort_values("index")
        places = {index: place for place, index in enumerate(layers["index"])}
        marks = []
        for one, group in by_quantization(rows):
            ordered = group.sort_values("index")
            low, median, high = _scaled(ordered, 1.0, "low", "median", "high")
            x = [places[index] for index in ordered["index"]]
            marks.append(Line(points=True, series=one.slot, x=x, y=median, low=low, high=high))
        panels.append(
            Panel(
                title=str(network),
                figure_title=f"{network}, n = {int(rows.groupby('quantization')['models'].max().sum())}",
                x=Categories(labels=tuple(short_layer(name) for name in layers["layer"])),
                y=axis,
                hover="x",
                marks=tuple(marks),
            )
        )
    return Chart(names=_names(models), panels=tuple(panels), minimum=300, columns=3, lines="solid")
