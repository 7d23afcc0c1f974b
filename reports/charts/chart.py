"""The description of a chart: panels with two axes and marks. Nothing here knows how it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Values: TypeAlias = Sequence[float | None]
"""Numbers in full precision; None or NaN where one is missing."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Numbers; the marks lie between `low` and `high`."""

    type: Literal["linear", "log"] = "linear"
    low: float
    high: float
    label: str = ""
    short: str = ""
    """The label where a single value is named."""
    tight: bool = False
    """It ends where the marks do, and not at a round number."""
    figure_label: str = ""
    """The label in a figure, if it says more there: no page stands around it."""
    figure_ticks: int | None = None
    """At most that many numbers at the axis in a figure."""


def axis_of(values: Iterable[float | None], *, label: str = "", log: bool = False, **more: Any) -> Axis:
    """An axis from the smallest of these values to the largest; `log` where all are above zero."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    return Axis(type="log" if log and low > 0 else "linear", low=low, high=high, label=label, short=label, **more)


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Names at 0, 1, 2, …"""

    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line to compare with, across the panel."""

    x: float


@dataclass(frozen=True, kw_only=True)
class Band:
    """A range along x."""

    series: int
    x: Values
    low: Values
    high: Values


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that are connected: with markers if they are `points`, with the ranges from `low` to `high` if given."""

    solid: bool = False
    """It counts something: it holds its height to the next point, and has no dashes."""
    points: bool = False
    series: int
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Heights `y` above `base` between neighbouring `edges`, which are in `unit`s."""

    series: int
    edges: Values
    y: Values
    base: Values
    unit: str


@dataclass(frozen=True, kw_only=True)
class Dots:
    """One dot a job: scattered over x, or all in one column of it."""

    series: int
    x: Values | int
    y: Values
    jobs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BoxPlot:
    """A distribution in seven numbers (`reports.series.Box`), in column `x`."""

    x: int
    mean: float
    quantiles: tuple[float, ...]
    count: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Points in rows `y`, with their intervals."""

    series: int
    opacity: float | None = None
    y: Values
    x: Values
    low: Values
    high: Values
    tips: tuple[str, ...]


Mark: TypeAlias = Rule | Band | Line | Bars | Dots | BoxPlot | Intervals


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Marks, the first one at the back."""

    title: str = ""
    kind: Literal["scatter"] | None = None
    x: Axis | Categories
    y: Axis | Categories
    row_height: int | None = None
    """Pixels of one row of categories on a page."""
    hover: Literal["x"] | None = None
    """What a pointer picks: one mark, or all at its x."""
    marks: tuple[Mark, ...]
    figure_title: str = ""
    """The title in a figure, if it differs."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Panels that a page shows when asked for, and that are a row of a figure, or one by themselves."""

    label: str
    panels: tuple[Panel, ...]
    names: tuple[str, ...] = ()
    """Of its series, where they are others than those of the chart."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels, or choices of them. The `series` of a mark has the name, colour, marker and dashes of that number."""

    names: tuple[str, ...]
    panels: tuple[Panel, ...] = ()
    choices: tuple[Choice, ...] = ()
    choose: str = ""
    """What there is to choose."""
    minimum: int
    """Pixels that a panel is wide at least on a page …"""
    columns: int
    """… and panels side by side at most."""
    lines: Literal["solid", "dashed"] | None = None
    """What lines the legend shows."""
    legend: bool = True
