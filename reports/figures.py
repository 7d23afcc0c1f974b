"""The figures of a sweep as files, in one style: the same results give the same bytes.

`step-sizes` is Figure 1 of QGen. Its Figure 2, the loss surface, is drawn in `reports.landscape`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.analysis.analysis import GAP, Models
from reports.analysis.measured import quantities
from reports.evidence import Evidence
from reports.formats import FileFormat, Picture
from reports.labels import FEW, MEASURE_TITLES, METRICS, short_layer
from reports.series import BOX, NORMAL, by_bits, curves, distorted, effects, step_sizes, timeline
from reports.table import precision_name
from sweeps.errors import InputError
from sweeps.quantizers import FULL_PRECISION
from sweeps.wholefiles import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "FP32": "#2b2b2b",
    "Int8": "#0072b2",
    "Int4": "#009e73",
    "Int2": "#d55e00",
    "Int3": "#cc79a7",
    "Int5": "#8a6d00",
    "Int6": "#3d9bd1",
    "Int7": "#7a4fb5",
}
"""Of each precision; Okabe and Ito's palette, which people with any colour vision tell apart."""
MARKERS = {"FP32": "o", "Int8": "s", "Int4": "^", "Int2": "D", "Int3": "P", "Int5": "v", "Int6": "X", "Int7": "<"}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "qsweep",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "ytick.left": False,
}
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
WIDTH = 7.2
"""Of a figure over two columns of a journal, in inches."""


def draw_figures(
    evidence: Evidence, folder: Path, *, chosen: Sequence[Picture] = (), form: FileFormat = FileFormat.PDF
) -> list[Path]:
    """Write the chosen figures (all of them without a choice) for which there are data; their paths.

    Raises InputError if there are none, or if `folder` can't be written.
    """
    from matplotlib import rc_context  # here, because it takes a second to import

    with rc_context(STYLE):
        drawn = [one for picture in (chosen or list(Picture)) for one in _pictures(evidence, picture)]
        if not drawn:
            what = ", ".join(chosen) if chosen else "any figure"
            raise InputError(f"nothing is done yet that {what} could show", place=evidence.title)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return [_save(figure, folder / f"{name}.{form}", form) for name, figure in drawn]
        except OSError as error:
            raise InputError(f"the figures can't be written: {error.strerror}", place=f"--out {folder}") from None


def _save(figure: Figure, path: Path, form: FileFormat) -> Path:
    with whole_file(path) as file:
        figure.savefig(file, format=form.value, dpi=200, metadata=UNDATED[form.value])
    return path


def _pictures(evidence: Evidence, picture: Picture) -> list[tuple[str, Figure]]:
    """The figures of one kind by file name: one a group of models, where there are several groups."""
    if picture is Picture.PROGRESS:
        figure = _progress(evidence)
        return [] if figure is None else [(picture.value, figure)]
    found = []
    for models in evidence.models:
        suffix = "" if len(evidence.models) == 1 else f"-{_slug(models.group)}"
        for detail, figure in DRAWN[picture](evidence, models):
            found.append((picture.value + suffix + (f"-{_slug(detail)}" if detail else ""), figure))
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("+", "-and-")).strip("-")


TRAINED = (
    ("train_loss", "Training loss", "cross-entropy (nats)", 1.0),
    ("train_accuracy", "Training accuracy", "images (%)", 100.0),
)
Drawn = list[tuple[str, "Figure"]]


def _grid(count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH * (columns / 3 if columns < 3 and count < 2 else 1), rows * height))
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))


def _look(bits: int) -> dict[str, Any]:
    name = precision_name(bits)
    return {"color": COLOURS[name], "marker": MARKERS[name], "label": name}


def _distributions(evidence: Evidence, models: Models) -> Drawn:
    groups = by_bits(models.runs)
    figure, panels = _grid(len(METRICS), columns=2, height=2.5)
    draw = np.random.default_rng(0)
    for axes, (metric, (title, label, factor)) in zip(panels, METRICS.items(), strict=True):
        for place, (bits, group) in enumerate(groups):
            values = (group[metric] * factor).to_numpy(dtype=np.float64)
            offsets = draw.uniform(-0.28, 0.28, len(values)) if len(values) >= FEW else np.zeros(len(values))
            look = _look(bits)
            axes.scatter(place + offsets, values, s=5, alpha=0.45, linewidths=0, color=look["color"])
            if len(values) >= FEW:
                _box(axes, place, values)
        axes.set_xticks(range(len(groups)), [precision_name(bits) for bits, _ in groups])
        axes.set_title(title)
        axes.set_ylabel(label)
    return [("", figure)]


def _box(axes: Axes, place: int, values: np.ndarray) -> None:
    low, first, median, third, high = np.quantile(values, BOX)
    stats = {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high, "mean": values.mean()}
    axes.bxp(
        [{**stats, "fliers": []}],
        positions=[place],
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


def _paired(evidence: Evidence, models: Models) -> Drawn:
    comparisons = [one for group, one in evidence.analysis.comparisons if group == models.group]
    if not comparisons:
        return []
    figure, panels = _grid(len(METRICS), columns=2, height=1.35)
    for axes, (metric, (title, label, factor)) in zip(panels, METRICS.items(), strict=True):
        rows = [one for one in comparisons if one.metric == metric]
        for place, one in enumerate(rows):
            look = _look(one.bits)
            if one.low is not None and one.high is not None:
                axes.plot([factor * one.low, factor * one.high], [place, place], color=look["color"])
            axes.plot(factor * one.difference, place, linestyle="none", **look)
        axes.axvline(0, color="black", linestyle=":", linewidth=0.9)
        axes.set_yticks(range(len(rows)), [one.precision for one in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_title(f"{title}: difference from FP32")
        axes.set_xlabel(label)
    return [("", figure)]


def _effects(evidence: Evidence, models: Models) -> Drawn:
    names = list(dict.fromkeys(one.hyperparameter for one in effects(models, evidence.spec.axes, GAP)))
    if not names:
        return []
    figure, panels = _grid(len(names) * len(METRICS), columns=len(names), height=1.75)
    for row, (metric, (title, _, factor)) in enumerate(METRICS.items()):
        found = effects(models, evidence.spec.axes, metric)
        line = panels[row * len(names) : (row + 1) * len(names)]
        for axes, name in zip(line, names, strict=True):
            if axes is not line[0]:
                axes.sharey(line[0])
                axes.tick_params(labelleft=False)
            for one in (effect for effect in found if effect.hyperparameter == name):
                means = factor * np.array([np.nan if mean is None else mean for mean in one.means])
                errors = factor * NORMAL * np.array([np.nan if error is None else error for error in one.errors])
                axes.errorbar(range(len(means)), means, errors, elinewidth=0.9, **_look(one.bits))
            axes.set_xticks(range(len(one.labels)), one.labels)
            axes.margins(x=0.15)
            if row == 0:
                axes.set_title(name.replace("_", " "))
        line[0].set_ylabel(f"{title}{' (%)' if factor != 1 else ''}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=max(len(labels), 1))
    return [("", figure)]


def _curves(evidence: Evidence, models: Models) -> Drawn:
    figure, panels = _grid(len(TRAINED), columns=2, height=2.6)
    for axes, (metric, title, label, factor) in zip(panels, TRAINED, strict=True):
        rows = curves(evidence.epochs, models, metric)
        if rows.empty:
            return []
        for bits, one in by_bits(rows):
            look = _look(bits) | {"marker": ""}
            low, high = factor * one["low"], factor * one["high"]
            axes.fill_between(one["epoch"], low, high, alpha=0.12, color=look["color"], linewidth=0)
            axes.plot(one["epoch"], factor * one["median"], **look)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if factor == 1 and (rows["low"] > 0).all():
            axes.set_yscale("log")
    _legend(figure, panels[0])
    return [("", figure)]


def _measures(evidence: Evidence, models: Models) -> Drawn:
    gap = models.runs[GAP]
    known = [one for one in evidence.analysis.associations if one.group == models.group]
    taus = {(one.name, one.convention): one.kendall.tau for one in known}
    by_convention: dict[str, list[tuple[str, pd.Series]]] = {}
    for one in quantities(evidence.spec, models.runs, evidence.measures):
        values = one.values.reindex(gap.index).dropna()
        if len(values):
            by_convention.setdefault(one.convention, []).append((one.name, values))
    drawn = []
    for convention, members in by_convention.items():
        figure, panels = _grid(len(members), columns=3, height=2.2)
        for axes, (name, values) in zip(panels, members, strict=True):
            for bits, group in by_bits(models.runs):
                here = values[values.index.isin(group.index)]
                look = _look(bits)
                size, alpha = (7, 0.55) if len(values) > 100 else (22, 0.9)
                axes.scatter(here, gap[here.index], s=size, alpha=alpha, linewidths=0, **look)
            tau = taus.get((name, convention))
            axes.set_title(MEASURE_TITLES[name] + ("" if tau is None else f", τ = {tau:+.2f}"))
            axes.set_xlabel(MEASURE_TITLES[name])
            axes.set_ylabel("generalization gap (nats)")
            if (values > 0).all() and values.max() > 20 * values.min():
                axes.set_xscale("log")
        _legend(figure, panels[0])
        drawn.append((convention or "norms", figure))
    return drawn


def _step_sizes(evidence: Evidence, models: Models) -> Drawn:
    found = step_sizes(evidence.layers, models)
    if found.empty:
        return []
    networks = list(dict.fromkeys(found["network"]))
    figure, panels = _grid(len(networks), columns=3, height=2.1)
    for axes, network in zip(panels, networks, strict=True):
        if axes is not panels[0]:
            axes.sharey(panels[0])
        rows = found[found["network"] == network]
        layers = rows.drop_duplicates("index").sort_values("index")
        places = {index: place for place, index in enumerate(layers["index"])}
        for bits, one in by_bits(rows):
            errors = np.stack([one["median"] - one["low"], one["high"] - one["median"]])
            axes.errorbar(one["index"].map(places), one["median"], errors, elinewidth=0.8, **_look(bits))
        axes.set_xticks(range(len(layers)), [short_layer(name) for name in layers["layer"]], rotation=60, ha="right")
        axes.set_yscale("log")
        axes.set_title(network)
        axes.set_ylabel("step size s")
    _legend(figure, panels[0])
    return [("", figure)]


def _distortion(evidence: Evidence, models: Models) -> Drawn:
    """One heat map a network: how much larger or smaller the gap is than FP32's, by corruption and severity."""
    found = distorted(evidence.distortions, models)
    if found.empty:
        return []
    quantized = found[(found["bits"] != FULL_PRECISION) & found["difference"].notna()]
    networks = list(dict.fromkeys(quantized["network"]))
    drawn = []
    for network in networks:
        rows = quantized[quantized["network"] == network]
        drawn.append((network if len(networks) > 1 else "", _heat_maps(network, rows)))
    return drawn


def _heat_maps(network: str, rows: pd.DataFrame) -> Figure:
    """One panel a precision, on one scale about 0."""
    groups = by_bits(rows)
    corruptions = rows.sort_values("place")["corruption"].drop_duplicates().tolist()
    severities = sorted(set(rows["severity"]))
    figure, panels = _grid(len(groups), columns=len(groups), height=0.8 + 0.24 * len(corruptions))
    figure.set_size_inches(WIDTH, figure.get_size_inches()[1])
    largest = max(float(rows["difference"].abs().max()), 1e-9)
    for axes, (bits, group) in zip(panels, groups, strict=True):
        table = group.pivot_table(index="corruption", columns="severity", values="difference")
        table = table.reindex(index=corruptions, columns=severities)
        image = axes.imshow(table, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        for (row, column), value in np.ndenumerate(table.to_numpy(dtype=np.float64)):
            if np.isfinite(value):
                light = abs(value) > 0.6 * largest
                axes.text(column, row, f"{value:+.2f}".replace("-", "−"), ha="center", va="center", fontsize=6,
                          color="white" if light else "black")  # fmt: skip
        axes.grid(visible=False)
        axes.set_xticks(range(len(severities)), [str(one) for one in severities])
        named = [name.replace("_", " ") for name in corruptions] if axes is panels[0] else []
        axes.set_yticks(range(len(corruptions)), named or [""] * len(corruptions))
        axes.set_xlabel("severity")
        axes.set_title(f"{precision_name(bits)} − FP32")
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("difference of the generalization gap from FP32's (nats)")
    figure.suptitle(f"{network}: generalization gap under distortion", fontsize=9, x=0.01, ha="left")
    return figure


def _progress(evidence: Evidence) -> Figure | None:
    found = timeline(evidence.attempts, evidence.jobs.set_index("job")["kind"])
    if found is None:
        return None
    figure, (left, right) = _grid(2, columns=2, height=2.4)
    base = np.zeros(len(found.edges) - 1)
    widths = np.diff(found.edges)
    for colour, (kind, counts) in zip(("#0072b2", "#009e73", "#d55e00", "#cc79a7"), found.done.items(), strict=False):
        left.step(found.times, counts, where="post", color=colour, label=kind)
        right.bar(found.edges[:-1], found.rates[kind], widths, bottom=base, align="edge", color=colour, label=kind)
        base = base + np.array(found.rates[kind])
    left.set_title("Jobs done")
    left.set_ylabel("jobs")
    right.set_title("Throughput")
    right.set_ylabel("jobs a minute")
    for axes in (left, right):
        axes.set_xlabel(f"time since {found.start:%Y-%m-%d %H:%M} UTC ({found.unit})")
    _legend(figure, left)
    return figure


DRAWN: dict[Picture, Callable[[Evidence, Models], Drawn]] = {
    Picture.STEP_SIZES: _step_sizes,
    Picture.DISTRIBUTIONS: _distributions,
    Picture.PAIRED: _paired,
    Picture.EFFECTS: _effects,
    Picture.CURVES: _curves,
    Picture.MEASURES: _measures,
    Picture.DISTORTION: _distortion,
}
