"""The charts of any sweep of runs: what they returned and logged, by each setting that varies. None without data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qsweep.reports.charts.chart import (
    Axis,
    Band,
    BoxPlot,
    Categories,
    Chart,
    Choice,
    Dots,
    Line,
    Mark,
    Panel,
    axis_of,
)
from qsweep.reports.returned import Returned, Varied, curves_of
from qsweep.reports.series import NORMAL, box

MOST_COLUMNS = 24
"""Values of a setting that stand side by side."""
MOST_SERIES = 8
"""Values of a setting whose curves are drawn together."""
EVERYTHING = "all runs"
FAR = 100.0
"""A curve whose largest value is that many times its smallest has a logarithmic axis."""


def distributions_chart(found: Returned) -> Chart | None:
    """Every run's numbers: a choice a setting, a panel a number, a column a value of the setting."""
    if found.numbers.empty:
        return None
    axes: list[Varied | None] = [axis for axis in found.axes if len(axis.values) <= MOST_COLUMNS]
    choices = tuple(
        Choice(
            label=EVERYTHING if axis is None else f"by {axis.name}",
            panels=tuple(_distribution(found, name, axis) for name in map(str, found.numbers)),
            names=(EVERYTHING,) if axis is None else axis.labels,
        )
        for axis in axes or [None]
    )
    return Chart(names=(EVERYTHING,), choices=choices, choose="Runs", minimum=300, columns=2, legend=False)


def _distribution(found: Returned, name: str, axis: Varied | None) -> Panel:
    values = found.numbers[name].dropna()
    labels = (EVERYTHING,) if axis is None else axis.labels
    dots, boxes = list[Mark](), list[Mark]()
    for place, label in enumerate(labels):
        here = values if axis is None else values[axis.places.reindex(values.index) == place]
        if len(here):
            dots.append(Dots(series=place, x=place, y=here.tolist(), jobs=tuple(here.index)))
            boxes.append(BoxPlot(x=place, label=label, **vars(box(here))))
    return Panel(title=name, x=Categories(labels=labels), y=axis_of(values.tolist()), marks=(*dots, *boxes))


def effects_chart(found: Returned) -> Chart | None:
    """The mean of each number at each value of each setting: a choice a number, a panel a setting."""
    if found.numbers.empty or not found.axes:
        return None
    choices = []
    for name in map(str, found.numbers):
        lines = {axis.name: _effect(found, name, axis) for axis in found.axes}
        ends = [end for line in lines.values() for side in (line.low or (), line.high or (), line.y) for end in side]
        y = axis_of(ends, label=name, figure_ticks=4)
        panels = tuple(
            Panel(title=axis.name, x=_values_of(axis), y=y, marks=(lines[axis.name],)) for axis in found.axes
        )
        choices.append(Choice(label=name, panels=panels))
    return Chart(names=("mean",), choices=tuple(choices), choose="Number", minimum=220, columns=4, legend=False)


def _values_of(axis: Varied) -> Axis | Categories:
    """The values of a setting side by side; where they are many numbers, where these lie."""
    if len(axis.values) <= MOST_COLUMNS or not axis.ordered:
        return Categories(labels=axis.labels)
    numbers = list(map(float, axis.values))
    return axis_of(numbers, label=axis.name, log=min(numbers) > 0 and max(numbers) > FAR * min(numbers))


def _effect(found: Returned, name: str, axis: Varied) -> Line:
    values = found.numbers[name].dropna()
    groups = values.groupby(axis.places.reindex(values.index))
    means, errors = groups.mean(), NORMAL * groups.sem()
    places = [int(place) for place in means.index]
    return Line(
        points=True,
        series=0,
        x=places if isinstance(_values_of(axis), Categories) else [float(axis.values[place]) for place in places],
        y=means.tolist(),
        low=[None if np.isnan(error) else mean - error for mean, error in zip(means, errors, strict=True)],
        high=[None if np.isnan(error) else mean + error for mean, error in zip(means, errors, strict=True)],
    )


def curves_chart(found: Returned) -> Chart | None:
    """The median of each logged number at each step, and a band about it: a choice a setting, a series a value."""
    if not found.curves:
        return None
    axes: list[Varied | None] = [axis for axis in found.axes if len(axis.values) <= MOST_SERIES]
    choices = tuple(
        Choice(
            label=EVERYTHING if axis is None else f"by {axis.name}",
            panels=tuple(_curve(found, name, axis) for name in found.curves),
            names=(EVERYTHING,) if axis is None else axis.labels,
        )
        for axis in axes or [None]
    )
    return Chart(names=(EVERYTHING,), choices=choices, choose="Curves", minimum=330, columns=2, lines="dashed")


def _curve(found: Returned, name: str, axis: Varied | None) -> Panel:
    rows = curves_of(found, name, axis)
    bands, lines = list[Mark](), list[Mark]()
    for place, here in rows.groupby("place", sort=True):
        series, steps = int(str(place)), here["step"].tolist()
        bands.append(Band(series=series, x=steps, low=here["low"].tolist(), high=here["high"].tolist()))
        lines.append(Line(series=series, x=steps, y=here["median"].tolist()))
    ends = [*rows["low"], *rows["high"]]
    far = bool(ends) and min(ends) > 0 and max(ends) > FAR * min(ends)
    return Panel(
        title=name,
        x=axis_of(rows["step"].astype(float).tolist(), label="step", tight=True, figure_ticks=8),
        y=axis_of(ends, log=far),
        hover="x",
        marks=(*bands, *lines),
    )


GENERAL: dict[str, Callable[[Returned], Chart | None]] = {
    "distributions": distributions_chart,
    "effects": effects_chart,
    "curves": curves_chart,
}
"""The charts by their names on a page."""
