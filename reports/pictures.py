"""What each figure shows: the charts of a sweep's evidence with their captions, one figure or several a kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qsweep.reports.analysis.analysis import GAP, Models
from qsweep.reports.canvas import WIDTH, legend_above, panels_of, say_below
from qsweep.reports.charts.chart import Categories, Panel
from qsweep.reports.charts.general import GENERAL
from qsweep.reports.charts.made import (
    NORMS,
    curves_chart,
    distributions_chart,
    effects_chart,
    paired_chart,
    progress_chart,
    scatter_chart,
    steps_chart,
)
from qsweep.reports.drawing import Pen
from qsweep.reports.evidence import Evidence
from qsweep.reports.formats import Picture
from qsweep.reports.labels import counts_text, layer_note, signed_text
from qsweep.reports.quantization import FULL
from qsweep.reports.returned import Returned
from qsweep.reports.series import by_quantization, distorted, timeline
from qsweep.reports.synthesis import draw_synthesis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = list[tuple[str, "Figure"]]


def _figure(
    names: Sequence[str],
    panels: Sequence[Panel],
    caption: str,
    *,
    columns: int,
    height: float,
    legend: bool = True,
    shared: bool = False,
    apart: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Panels row by row with a line below them. The rows of `shared` ones have one y axis, named at the left."""
    figure, axes = panels_of(len(panels), columns=columns, height=height)
    pen = Pen(names, panels, apart=apart)
    for number, (one, panel) in enumerate(zip(axes, panels, strict=True)):
        pen.draw(one, panel, width=WIDTH / min(columns, len(panels)) - 0.25)
        if shared and number % columns:
            one.set_ylabel("")
    if legend:
        legend_above(figure, axes[0])
    say_below(figure, caption)
    return figure, axes


def _distributions(evidence: Evidence, models: Models) -> Drawn:
    chart = distributions_chart(models)
    figure, _ = _figure(chart.names, chart.panels, _counted(models), columns=2, height=2.5, legend=False)
    return [("", figure)]


def _paired(evidence: Evidence, models: Models) -> Drawn:
    comparisons = [one for group, one in evidence.analysis.comparisons if group == models.group]
    chart = paired_chart(models, comparisons)
    if chart is None:
        return []
    pairs = ", ".join(f"{one.pairs} of {one.precision}" for one in comparisons if one.metric == GAP)
    caption = f"{_counted(models)}. Means over matched configurations ({pairs}), 95% bootstrap intervals."
    figure, _ = _figure(chart.names, chart.panels, caption, columns=2, height=1.35, legend=False)
    return [("", figure)]


def _effects(evidence: Evidence, models: Models) -> Drawn:
    chart = effects_chart(models, evidence)
    if chart is None:
        return []
    columns = len(chart.choices[0].panels)
    panels = [panel for choice in chart.choices for panel in choice.panels]
    caption = f"{_counted(models)}. Means over all other settings, 95% intervals."
    figure, axes = _figure(chart.names, panels, caption, columns=columns, height=1.75, shared=True, legend=False)
    legend_above(figure, axes[0], always=True)
    for number, one in enumerate(axes):
        one.margins(x=0.15)
        if number >= columns:
            one.set_title("")
        if number % columns:
            one.sharey(axes[number - number % columns])
            one.tick_params(labelleft=False)
    return [("", figure)]


def _curves(evidence: Evidence, models: Models) -> Drawn:
    chart = curves_chart(models, evidence)
    if chart is None:
        return []
    caption = f"{_counted(models)}. Median of each epoch, and the band from the 10th to the 90th percentile."
    return [("", _figure(chart.names, chart.panels, caption, columns=2, height=2.6)[0])]


def _measures(evidence: Evidence, models: Models) -> Drawn:
    chart = scatter_chart(models, evidence)
    if chart is None:
        return []
    drawn = []
    for choice in chart.choices:
        convention = "" if choice.label == NORMS else choice.label
        about = f"Convention: {convention}. " if convention else ""
        caption = f"{_counted(models)}. {about}τ: Kendall's τ-b over all n models."
        figure, _ = _figure(chart.names, choice.panels, caption, columns=3, height=2.2, shared=True)
        drawn.append((convention or "norms", figure))
    return drawn


def _step_sizes(evidence: Evidence, models: Models) -> Drawn:
    chart = steps_chart(models, evidence)
    if chart is None:
        return []
    layers = evidence.layers["layer"][evidence.layers["job"].isin(models.runs.index)]
    widest = max(len(panel.x.labels) for panel in chart.panels if isinstance(panel.x, Categories))
    caption = (
        f"{_counted(models)}; n of them have step sizes in a panel. {layer_note(layers)} Median over "
        "the models of a precision, and the range from the 10th to the 90th percentile."
    )
    columns = 3 if widest <= 12 else 2 if widest <= 22 else 1
    figure, axes = _figure(chart.names, chart.panels, caption, columns=columns, height=2.1, shared=True, apart=0.14)
    for one in axes:
        one.set_xlabel("layer")
    return [("", figure)]


def _distortion(evidence: Evidence, models: Models) -> Drawn:
    """One heat map a network: how much larger or smaller the gap is than FP32's, by corruption and severity."""
    found = distorted(evidence.distortions, models)
    if found.empty:
        return []
    quantized = found[(found["quantization"] != FULL) & found["difference"].notna()]
    networks = list(dict.fromkeys(quantized["network"]))
    drawn = []
    for network in networks:
        rows = quantized[quantized["network"] == network]
        count = int(models.runs.index.isin(evidence.distortions["parent"]).sum())
        drawn.append((network if len(networks) > 1 else "", _heat_maps(network, rows, count)))
    return drawn


def _heat_maps(network: str, rows: pd.DataFrame, count: int) -> Figure:
    """One panel a precision, on one scale about 0."""
    groups = by_quantization(rows)
    corruptions = rows.sort_values("place")["corruption"].drop_duplicates().tolist()
    severities = sorted(set(rows["severity"]))
    figure, panels = panels_of(len(groups), columns=len(groups), height=0.8 + 0.24 * len(corruptions))
    figure.set_size_inches(WIDTH, figure.get_size_inches()[1])
    largest = max(float(rows["difference"].abs().max()), 1e-9)
    for axes, (one, group) in zip(panels, groups, strict=True):
        table = group.pivot_table(index="corruption", columns="severity", values="difference")
        table = table.reindex(index=corruptions, columns=severities)
        image = axes.imshow(table, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        for (row, column), value in np.ndenumerate(table.to_numpy(dtype=np.float64)):
            if np.isfinite(value):
                light = abs(value) > 0.6 * largest
                axes.text(column, row, signed_text(value, 2), ha="center", va="center", fontsize=6,
                          color="white" if light else "black")  # fmt: skip
        axes.grid(visible=False)
        axes.set_xticks(range(len(severities)), [str(one) for one in severities])
        named = [name.replace("_", " ") for name in corruptions] if axes is panels[0] else []
        axes.set_yticks(range(len(corruptions)), named or [""] * len(corruptions))
        axes.set_xlabel("severity")
        axes.set_title(f"{one} − {FULL}")
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("difference of the generalization gap from FP32's (nats)")
    figure.suptitle(f"{network}: generalization gap under distortion", fontsize=9, x=0.01, ha="left")
    pairs = sorted({int(one) for one in rows["pairs"]})
    over = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    say_below(figure, f"{count:,} models judged; each difference is a mean over {over} matched configurations.")
    return figure


def _synthesis(evidence: Evidence, models: Models) -> Drawn:
    """One figure a synthesis: its first images with what the model sees in them, its losses, and its classes."""
    mine = evidence.syntheses[evidence.syntheses["parent"].isin(models.runs.index)]
    mine = mine[~mine["diverged"].astype(bool) & mine["job"].isin(evidence.synthetic_images["job"])]  # or they are lost
    return [(job[:8] if len(mine) > 1 else "", draw_synthesis(evidence, job)) for job in mine["job"]]


def draw_general(found: Returned, picture: str) -> Drawn:
    """The chart of that name of a user's runs: a figure for each of its choices."""
    chart = GENERAL[picture](found)
    if chart is None:
        return []
    caption = f"{len(found.numbers):,} of {found.expected:,} runs of {found.noun}. {ABOUT[picture]}"
    columns = 2 if picture != "effects" else 3
    drawn = []
    for choice in chart.choices:
        figure, _ = _figure(
            choice.names or chart.names, choice.panels, caption, columns=columns, height=2.3, legend=chart.legend
        )
        drawn.append((choice.label if len(chart.choices) > 1 else "", figure))
    return drawn


ABOUT = {
    "distributions": "Boxes: quartiles, whiskers from the 5th to the 95th percentile, median, and mean (diamond).",
    "effects": "Means over all other settings, 95% intervals.",
    "curves": "Median at each step, and the band from the 10th to the 90th percentile.",
}


def progress(evidence: Evidence) -> Figure | None:
    """Jobs done and throughput over time; None where nothing is done."""
    found = timeline(evidence.attempts, evidence.jobs.set_index("job")["kind"])
    if found is None:
        return None
    chart = progress_chart(found)
    done = ", ".join(f"{counts[-1]:,} of kind {kind}" for kind, counts in found.done.items())
    caption = f"{evidence.title}: {sum(counts[-1] for counts in found.done.values()):,} jobs done ({done})"
    return _figure(chart.names, chart.panels, caption, columns=2, height=2.4)[0]


def _counted(models: Models) -> str:
    """How many models a figure shows."""
    return counts_text(models.group, {str(one): len(group) for one, group in by_quantization(models.runs)})


DRAWN: dict[Picture, Callable[[Evidence, Models], Drawn]] = {
    Picture.STEP_SIZES: _step_sizes,
    Picture.DISTRIBUTIONS: _distributions,
    Picture.PAIRED: _paired,
    Picture.EFFECTS: _effects,
    Picture.CURVES: _curves,
    Picture.MEASURES: _measures,
    Picture.DISTORTION: _distortion,
    Picture.SYNTHESIS: _synthesis,
}
