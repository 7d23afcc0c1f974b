"""The page's charts as data: what `assets/charts.js` draws, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from qsweep.reports.charts.chart import (
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
)
from qsweep.reports.charts.general import GENERAL
from qsweep.reports.charts.made import (
    curves_chart,
    distributions_chart,
    effects_chart,
    paired_chart,
    progress_chart,
    scatter_chart,
    signs_chart,
    steps_chart,
)
from qsweep.reports.charts.sampling import sampled, sampling_note
from qsweep.reports.evidence import Evidence
from qsweep.reports.labels import FEW
from qsweep.reports.page.joblist import JobList, rounded
from qsweep.reports.series import timeline
from qsweep.sweeps.kinds import TRAIN

TYPES: dict[type, str] = {
    Rule: "rule",
    Band: "band",
    Line: "line",
    Bars: "bars",
    Dots: "dots",
    BoxPlot: "box",
    Intervals: "interval",
}
"""What the script calls each kind of mark."""
NO_JOBS = JobList(ids={TRAIN.name: []}, content={})


def make_charts(evidence: Evidence, jobs: JobList) -> dict[str, dict[str, Any]]:
    """Every chart for which there are data."""
    found = timeline(evidence.attempts, evidence.jobs.set_index("job")["kind"])
    charts = {"progress": progress_chart(found) if found else None}
    if evidence.returned is not None:
        charts |= {name: make(evidence.returned) for name, make in GENERAL.items()}
    for number, models in enumerate(evidence.models):
        comparisons = [one for group, one in evidence.analysis.comparisons if group == models.group]
        associations = [one for one in evidence.analysis.associations if one.group == models.group]
        made = {
            "distributions": distributions_chart(models),
            "paired": paired_chart(models, comparisons),
            "effects": effects_chart(models, evidence),
            "curves": curves_chart(models, evidence),
            "scatter": scatter_chart(models, evidence),
            "signs": signs_chart(associations),
            "steps": steps_chart(models, evidence),
        }
        charts |= {f"{name}-{number}": chart for name, chart in made.items()}
    return {name: chart_content(chart, jobs) for name, chart in charts.items() if chart}


def chart_content(chart: Chart, jobs: JobList = NO_JOBS) -> dict[str, Any]:
    """A chart as the page's script draws it, whose dots lead to these jobs."""
    content = _filled(replace(chart, panels=(), choices=()))
    content |= {"legend": False} if content.pop("legend", None) is None else {}
    panels = [*chart.panels, *(panel for choice in chart.choices for panel in choice.panels)]
    if note := sampling_note([list(_marks(panel, jobs)) for panel in panels]):
        content["note"] = note
    if chart.choices:
        return content | {"choices": [_choice(choice, jobs) for choice in chart.choices]}
    return content | {"panels": [_panel(panel, jobs) for panel in chart.panels]}


def _choice(choice: Choice, jobs: JobList) -> dict[str, Any]:
    named = {"names": list(choice.names)} if choice.names else {}
    return {"label": choice.label, "panels": [_panel(panel, jobs) for panel in choice.panels], **named}


def _panel(panel: Panel, jobs: JobList) -> dict[str, Any]:
    content = _filled(replace(panel, marks=())) | {"title": panel.title}
    if "row_height" in content:
        content["rowHeight"] = content.pop("row_height")
    for side, axis in (("x", panel.x), ("y", panel.y)):
        content[side] = _filled(axis) | ({"type": "category"} if isinstance(axis, Categories) else {})
    return content | {"marks": [_mark(mark, jobs) for mark in sampled(list(_marks(panel, jobs)))]}


def _marks(panel: Panel, jobs: JobList) -> Iterator[Mark]:
    """The marks: dots lead to the jobs that the page carries. A column of dots that lead nowhere is a box alone."""
    carried = bool(jobs.ids[jobs.drawn])
    for mark in panel.marks:
        if isinstance(mark, Dots) and isinstance(mark.x, int) and not carried:
            continue
        if isinstance(mark, BoxPlot) and mark.count < FEW and carried:
            continue
        yield mark


def _mark(mark: Mark, jobs: JobList) -> dict[str, Any]:
    content = {"type": TYPES[type(mark)], **_filled(mark)}
    if isinstance(mark, Dots):
        rows = jobs.rows(jobs.drawn, content.pop("jobs", ()))
        content |= {} if rows is None else {"jobs": rows}
    return content


def _filled(part: Any) -> dict[str, Any]:
    """The fields of a part that a page draws, and that say anything."""
    named = {one.name: getattr(part, one.name) for one in fields(part) if not one.name.startswith("figure_")}
    said = {name: value for name, value in named.items() if value not in (None, "", ()) and value is not False}
    return {name: _short(value) for name, value in said.items()}


def _short(value: Any) -> Any:
    """A value as the page carries it: numbers with few digits."""
    if isinstance(value, float):
        return rounded(value)
    return [_short(one) for one in value] if isinstance(value, list | tuple | range) else value
