"""The charts of what runs: curves of single jobs, agents over time, a query's answer. None where there are no data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd

from qsweep.reports.charts.chart import Axis, Band, Categories, Chart, Choice, Intervals, Line, Mark, Panel, axis_of
from qsweep.reports.labels import SAID
from qsweep.reports.series import BAND, unit_of

FAR = 20.0
"""A curve above zero whose largest value is that many times its smallest has a logarithmic axis."""
MOST_BARS = 60
"""Rows of an answer that are drawn."""
GIGABYTE = 1e9
LOADS = {
    "processor": ("Processors busy", "processors", 1.0),
    "memory": ("Memory", "memory (GB)", 1 / GIGABYTE),
    "gpu": ("GPU busy", "share of the time (%)", 100.0),
    "gpu_memory": ("Memory of the GPU", "memory (GB)", 1 / GIGABYTE),
}
"""What is drawn of the load of an agent (`db.rows.Load`): title, axis and scale."""

Groups = Sequence[tuple[str, Collection[str]]]
"""Jobs that are drawn as one, by their identities, and what they are called."""


def curves_chart(rows: pd.DataFrame, groups: Groups) -> Chart | None:
    """What jobs said of themselves at each step (`reports.series.told`): a panel a number, a series a group. One job is
    its line; several are their median, and the band from the 10th to the 90th percentile."""
    found = [(name, panel) for name in rows["name"].unique() if (panel := _curves(rows, name, groups)) is not None]
    if not found:
        return None
    panels = tuple(panel for _, panel in found)
    return Chart(names=tuple(name for name, _ in groups), panels=panels, minimum=330, columns=2, lines="dashed")


def _curves(rows: pd.DataFrame, name: str, groups: Groups) -> Panel | None:
    title, label, factor = SAID.get(name, (name, name, 1.0))
    here = rows[(rows["name"] == name) & np.isfinite(rows["value"])]
    bands, lines, ends = list[Mark](), list[Mark](), list[float]()
    for series, (_, jobs) in enumerate(groups):
        own = here[here["job"].isin(jobs)]
        if own.empty:
            continue
        by_step = (own["value"] * factor).groupby(own["step"], sort=True)
        x, y = sorted(own["step"].unique().tolist()), by_step.median().tolist()
        ends += y
        if own["job"].nunique() > 1:
            low, high = (by_step.quantile(one).tolist() for one in BAND)
            bands.append(Band(series=series, x=x, low=low, high=high))
            ends += [*low, *high]
        lines.append(Line(series=series, x=x, y=y))
    if not lines:
        return None
    step = "epoch" if name in SAID else "step"
    return Panel(
        title=title,
        x=axis_of(here["step"].astype(float).tolist(), label=step, tight=True, figure_ticks=8),
        y=axis_of(ends, label=label, log=factor == 1 and min(ends) > 0 and max(ends) > FAR * min(ends)),
        hover="x",
        marks=(*bands, *lines),
    )


def loads_chart(loads: pd.DataFrame) -> Chart | None:
    """What agents used over time: a choice a machine, a panel a quantity, a series an agent.

    `loads` has the columns `agent`, `host`, `at` (seconds since 1970) and those of LOADS.
    """
    if loads.empty:
        return None
    start, span = loads["at"].min(), float(loads["at"].max() - loads["at"].min())
    unit, size = unit_of(span)
    since = f"time since {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} UTC ({unit})"
    time = Axis(low=0.0, high=max(span, 1.0) / size, label=since, short=unit, tight=True, figure_ticks=8)
    placed = loads.assign(time=(loads["at"] - start) / size).astype(dict.fromkeys(LOADS, "float64"))
    choices = tuple(
        Choice(
            label=str(host),
            panels=tuple(_load(rows, name, time) for name in LOADS if rows[name].notna().any()),
            names=tuple(f"agent {agent}" for agent in sorted(rows["agent"].unique())),
        )
        for host, rows in placed.groupby("host", sort=True)
    )
    return Chart(names=(), choices=choices, choose="Machine", minimum=330, columns=2, lines="dashed")


def _load(rows: pd.DataFrame, name: str, time: Axis) -> Panel:
    title, label, factor = LOADS[name]
    lines = tuple(
        Line(series=series, x=own["time"].tolist(), y=[None if np.isnan(one) else one * factor for one in own[name]])
        for series, (_, own) in enumerate(rows.groupby("agent", sort=True))
    )
    y = axis_of([0.0, *(rows[name].dropna() * factor)], label=label)
    return Panel(title=title, x=time, y=y, hover="x", marks=lines)


def answer_chart(names: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[object]]) -> Chart | None:
    """The last number of each row of an answer, by the first column that is another one."""
    up = max((place for place, one in enumerate(numeric) if one), default=None)
    across = next((place for place in range(len(names)) if place != up), None)
    if up is None or across is None or not 1 < len(rows) <= MOST_BARS:
        return None
    known = list(_numbers(rows, up))
    if not known:
        return None
    places, values = zip(*known, strict=True)
    bars = Intervals(
        series=1, y=places, x=values, low=[0.0] * len(values), high=values, tips=tuple(f"{one:.6g}" for one in values)
    )
    labels = tuple("–" if row[across] is None else f"{row[across]:g}" if isinstance(row[across], float) else
                   str(row[across]) for row in rows)  # fmt: skip
    panel = Panel(title=f"{names[up]} by {names[across]}", x=axis_of([0.0, *values], label=names[up]),
                  y=Categories(labels=labels), marks=(bars,))  # fmt: skip
    return Chart(names=("", names[up]), panels=(panel,), minimum=300, columns=1, legend=False)


def _numbers(rows: Sequence[Sequence[object]], column: int) -> Iterator[tuple[int, float]]:
    """The finite numbers of a column, each with the place of its row."""
    for place, row in enumerate(rows):
        value = row[column]
        if isinstance(value, int | float | Decimal) and np.isfinite(float(value)):
            yield place, float(value)
