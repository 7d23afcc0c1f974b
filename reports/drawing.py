"""Draws the panels of a chart with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qsweep.reports.canvas import few_numbers, logarithmic, name_ticks
from qsweep.reports.charts.chart import (
    Axis,
    Band,
    Bars,
    BoxPlot,
    Categories,
    Dots,
    Intervals,
    Line,
    Mark,
    Panel,
    Rule,
    Values,
)
from qsweep.reports.labels import FEW
from qsweep.reports.quantization import colour_of, marker_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 100
"""More dots than these in a panel are small."""


class Pen:
    """Draws the marks of one figure, whose series have these `names`. With `apart`, lines with ranges stand beside
    each other, that many categories from one to the next."""

    def __init__(self, names: Sequence[str], panels: Sequence[Panel], *, apart: float = 0.0) -> None:
        self._names = names
        self._random = np.random.default_rng(0)
        lines = [mark for panel in panels for mark in panel.marks if isinstance(mark, Line)]
        series = list(dict.fromkeys(line.series for line in lines))
        self._aside = {one: apart * (place - (len(series) - 1) / 2) for place, one in enumerate(series)}

    def draw(self, axes: Axes, panel: Panel, *, width: float) -> None:
        """Fill the axes, which are that many inches wide, with the panel."""
        crowd = sum(len(mark.y) for mark in panel.marks if isinstance(mark, Dots))
        for mark in panel.marks:
            self._mark(axes, mark, crowd)
        axes.set_title(panel.figure_title or panel.title)
        for side, axis in (("x", panel.x), ("y", panel.y)):
            if isinstance(axis, Axis):
                _number_axis(axes, side, axis)
        if isinstance(panel.x, Categories):
            name_ticks(axes, panel.x.labels, width)
        if isinstance(panel.y, Categories):
            axes.set_yticks(range(len(panel.y.labels)), panel.y.labels)
            axes.set_ylim(len(panel.y.labels) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")

    def _look(self, series: int) -> dict[str, Any]:
        return {
            "color": colour_of(series),
            "marker": marker_of(series),
            "label": self._names[series],
        }

    def _mark(self, axes: Axes, mark: Mark, crowd: int) -> None:
        match mark:
            case Rule():
                axes.axvline(mark.x, color="black", linestyle=":", linewidth=0.9)
            case Band():
                x, low, high = map(_numbers, (mark.x, mark.low, mark.high))
                axes.fill_between(x, low, high, alpha=0.12, color=self._look(mark.series)["color"], linewidth=0)
            case Line():
                self._line(axes, mark)
            case Bars():
                self._bars(axes, mark)
            case Dots():
                self._dots(axes, mark, crowd)
            case BoxPlot():
                if mark.count >= FEW:
                    _box(axes, mark)
            case Intervals():
                self._intervals(axes, mark)

    def _line(self, axes: Axes, mark: Line) -> None:
        look = self._look(mark.series)
        x, y = _numbers(mark.x) + self._aside[mark.series], _numbers(mark.y)
        if mark.low is not None and mark.high is not None:
            ranges = np.stack([y - _numbers(mark.low), _numbers(mark.high) - y])
            axes.errorbar(x, y, ranges, elinewidth=0.9, **look)
        elif mark.solid:
            axes.step(x, y, where="post", **look | {"marker": ""})
        else:
            axes.plot(x, y, **look | {"marker": ""})

    def _bars(self, axes: Axes, mark: Bars) -> None:
        look, edges = self._look(mark.series), _numbers(mark.edges)
        axes.bar(
            edges[:-1],
            _numbers(mark.y),
            np.diff(edges),
            bottom=_numbers(mark.base),
            align="edge",
            color=look["color"],
            label=look["label"],
        )

    def _dots(self, axes: Axes, mark: Dots, crowd: int) -> None:
        look, y = self._look(mark.series), _numbers(mark.y)
        if isinstance(mark.x, int):
            aside = self._random.uniform(-0.28, 0.28, len(y)) if len(y) >= FEW else np.zeros(len(y))
            axes.scatter(mark.x + aside, y, s=5, alpha=0.45, linewidths=0, color=look["color"])
            return
        size, alpha = (7, 0.55) if crowd > MANY else (22, 0.9)
        axes.scatter(_numbers(mark.x), y, s=size, alpha=alpha, linewidths=0, **look)

    def _intervals(self, axes: Axes, mark: Intervals) -> None:
        look = self._look(mark.series)
        for x, y, low, high in zip(*map(_numbers, (mark.x, mark.y, mark.low, mark.high)), strict=True):
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [y, y], color=look["color"])
            axes.plot([x], [y], linestyle="none", **look)


def _numbers(values: Values) -> np.ndarray:
    """NaN where one is missing."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _number_axis(axes: Axes, side: str, axis: Axis) -> None:
    (axes.set_xlabel if side == "x" else axes.set_ylabel)(axis.figure_label or axis.label)
    if axis.type == "log":
        logarithmic(axes, side, [axis.low, axis.high])
    elif axis.figure_ticks:
        few_numbers(axes, side, axis.figure_ticks)


def _box(axes: Axes, mark: BoxPlot) -> None:
    low, first, median, third, high = mark.quantiles
    stats = {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high, "mean": mark.mean}
    axes.bxp(
        [{**stats, "fliers": []}],
        positions=[mark.x],
        widths=0.3,
        showfliers=False,
        showcaps=False,
        showmeans=True,
        manage_ticks=False,
        boxprops={"linewidth": 0.9},
        whiskerprops={"linewidth": 0.9},
        medianprops={"color": "black", "linewidth": 1.8},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4},
    )
