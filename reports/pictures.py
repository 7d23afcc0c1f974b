"""What each figure shows: drawn from a sweep's evidence, one figure or several a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qsweep.reports.analysis.analysis import GAP, Models
from qsweep.reports.analysis.measured import quantities
from qsweep.reports.canvas import (
    WIDTH,
    few_numbers,
    legend_above,
    logarithmic,
    look,
    name_ticks,
    only_left,
    panels_of,
    say_below,
)
from qsweep.reports.evidence import Evidence
from qsweep.reports.formats import Picture
from qsweep.reports.labels import (
    FEW,
    MEASURE_TITLES,
    METRICS,
    TRAINED,
    counts_text,
    difference_label,
    layer_note,
    short_layer,
    signed_text,
    tau_text,
)
from qsweep.reports.series import BOX, NORMAL, by_bits, curves, distorted, effects, step_sizes, timeline
from qsweep.reports.table import precision_name
from qsweep.sweeps.quantizers import FULL_PRECISION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = list[tuple[str, "Figure"]]


def _distributions(evidence: Evidence, models: Models) -> Drawn:
    groups = by_bits(models.runs)
    figure, panels = panels_of(len(METRICS), columns=2, height=2.5)
    draw = np.random.default_rng(0)
    for axes, (metric, (title, label, factor)) in zip(panels, METRICS.items(), strict=True):
        for place, (bits, group) in enumerate(groups):
            values = (group[metric] * factor).to_numpy(dtype=np.float64)
            offsets = draw.uniform(-0.28, 0.28, len(values)) if len(values) >= FEW else np.zeros(len(values))
            axes.scatter(place + offsets, values, s=5, alpha=0.45, linewidths=0, color=look(bits)["color"])
            if len(values) >= FEW:
                _box(axes, place, values)
        axes.set_xticks(range(len(groups)), [precision_name(bits) for bits, _ in groups])
        axes.set_title(title)
        axes.set_ylabel(label)
    say_below(figure, _counted(models))
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
    figure, panels = panels_of(len(METRICS), columns=2, height=1.35)
    for axes, (metric, (title, _, factor)) in zip(panels, METRICS.items(), strict=True):
        rows = [one for one in comparisons if one.metric == metric]
        for place, one in enumerate(rows):
            shape = look(one.bits)
            if one.low is not None and one.high is not None:
                axes.plot([factor * one.low, factor * one.high], [place, place], color=shape["color"])
            axes.plot(factor * one.difference, place, linestyle="none", **shape)
        axes.axvline(0, color="black", linestyle=":", linewidth=0.9)
        axes.set_yticks(range(len(rows)), [one.precision for one in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_title(f"{title}, minus FP32's")
        axes.set_xlabel(difference_label(metric))
        few_numbers(axes, "x")
    pairs = ", ".join(f"{one.pairs} of {one.precision}" for one in comparisons if one.metric == GAP)
    say_below(figure, f"{_counted(models)}. Means over matched configurations ({pairs}), 95% bootstrap intervals.")
    return [("", figure)]


def _effects(evidence: Evidence, models: Models) -> Drawn:
    names = list(dict.fromkeys(one.hyperparameter for one in effects(models, evidence.spec.axes, GAP)))
    if not names:
        return []
    figure, panels = panels_of(len(names) * len(METRICS), columns=len(names), height=1.75)
    width = WIDTH / len(names) - 0.25
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
                axes.errorbar(range(len(means)), means, errors, elinewidth=0.9, **look(one.bits))
            name_ticks(axes, one.labels, width)
            axes.margins(x=0.15)
            few_numbers(axes, "y", 4)
            if row == 0:
                axes.set_title(name.replace("_", " "))
        line[0].set_ylabel(f"{title}{' (%)' if factor != 1 else ' (nats)'}")
    legend_above(figure, panels[0], always=True)
    say_below(figure, f"{_counted(models)}. Means over all other settings, 95% intervals.")
    return [("", figure)]


def _curves(evidence: Evidence, models: Models) -> Drawn:
    figure, panels = panels_of(len(TRAINED), columns=2, height=2.6)
    for axes, (metric, (title, label, factor)) in zip(panels, TRAINED.items(), strict=True):
        rows = curves(evidence.epochs, models, metric)
        if rows.empty:
            return []
        for bits, one in by_bits(rows):
            line = look(bits) | {"marker": ""}
            low, high = factor * one["low"], factor * one["high"]
            axes.fill_between(one["epoch"], low, high, alpha=0.12, color=line["color"], linewidth=0)
            axes.plot(one["epoch"], factor * one["median"], **line)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        few_numbers(axes, "x", 8)
        if factor == 1 and (rows["low"] > 0).all():
            logarithmic(axes, "y", [float(rows["low"].min()), float(rows["high"].max())])
    legend_above(figure, panels[0])
    say_below(figure, f"{_counted(models)}. Median of each epoch, and the band from the 10th to the 90th percentile.")
    return [("", figure)]


def _measures(evidence: Evidence, models: Models) -> Drawn:
    known = [one for one in evidence.analysis.associations if one.group == models.group]
    taus = {(one.name, one.convention): one.kendall.tau for one in known}
    by_convention: dict[str, list[tuple[str, pd.Series]]] = {}
    for one in quantities(evidence.spec, models.runs, evidence.measures):
        values = one.values.reindex(models.runs.index).dropna()
        if len(values):
            by_convention.setdefault(one.convention, []).append((one.name, values))
    drawn = []
    for convention, members in by_convention.items():
        figure, panels = panels_of(len(members), columns=3, height=2.2)
        for axes, (name, values) in zip(panels, members, strict=True):
            _scatter(axes, name, values, models)
            axes.set_title(tau_text(taus.get((name, convention)), len(values)))
        only_left(panels, 3, "generalization gap (nats)")
        legend_above(figure, panels[0])
        about = f"Convention: {convention}. " if convention else ""
        say_below(figure, f"{_counted(models)}. {about}τ: Kendall's τ-b over all n models.")
        drawn.append((convention or "norms", figure))
    return drawn


def _scatter(axes: Axes, name: str, values: pd.Series, models: Models) -> None:
    """The gap of each model against one quantity."""
    gap = models.runs[GAP]
    for bits, group in by_bits(models.runs):
        here = values[values.index.isin(group.index)]
        size, alpha = (7, 0.55) if len(values) > 100 else (22, 0.9)
        axes.scatter(here, gap[here.index], s=size, alpha=alpha, linewidths=0, **look(bits))
    axes.set_xlabel(MEASURE_TITLES[name])
    few_numbers(axes, "y")
    if (values > 0).all() and values.max() > 20 * values.min():
        logarithmic(axes, "x", values.tolist())
    else:
        few_numbers(axes, "x", 4)


def _step_sizes(evidence: Evidence, models: Models) -> Drawn:
    found = step_sizes(evidence.layers, models)
    if found.empty:
        return []
    networks = list(dict.fromkeys(found["network"]))
    widest = int(found.groupby("network")["layer"].nunique().max())
    columns = 3 if widest <= 12 else 2 if widest <= 22 else 1
    figure, panels = panels_of(len(networks), columns=columns, height=2.1)
    widths = sorted({int(bits) for bits in found["bits"]}, reverse=True)
    for axes, network in zip(panels, networks, strict=True):
        rows = found[found["network"] == network]
        layers = rows.drop_duplicates("index").sort_values("index")
        places = {index: place for place, index in enumerate(layers["index"])}
        for bits, one in by_bits(rows):
            aside = 0.14 * (widths.index(bits) - (len(widths) - 1) / 2)  # so that ranges stand beside each other
            errors = np.stack([one["median"] - one["low"], one["high"] - one["median"]])
            axes.errorbar(one["index"].map(places) + aside, one["median"], errors, elinewidth=0.8, **look(bits))
        axes.set_xticks(range(len(layers)), [short_layer(name) for name in layers["layer"]], rotation=60, ha="right")
        logarithmic(axes, "y", [float(found["low"].min()), float(found["high"].max())])
        count = int(rows.groupby("bits")["models"].max().sum())
        axes.set_title(f"{network}, n = {count}")
        axes.set_xlabel("layer")
    only_left(panels, columns, "step size s")
    legend_above(figure, panels[0])
    say_below(
        figure,
        f"{_counted(models)}; n of them have step sizes in a panel. {layer_note(found['layer'])} Median over the "
        "models of a precision, and the range from the 10th to the 90th percentile.",
    )
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
        count = int(models.runs.index.isin(evidence.distortions["parent"]).sum())
        drawn.append((network if len(networks) > 1 else "", _heat_maps(network, rows, count)))
    return drawn


def _heat_maps(network: str, rows: pd.DataFrame, count: int) -> Figure:
    """One panel a precision, on one scale about 0."""
    groups = by_bits(rows)
    corruptions = rows.sort_values("place")["corruption"].drop_duplicates().tolist()
    severities = sorted(set(rows["severity"]))
    figure, panels = panels_of(len(groups), columns=len(groups), height=0.8 + 0.24 * len(corruptions))
    figure.set_size_inches(WIDTH, figure.get_size_inches()[1])
    largest = max(float(rows["difference"].abs().max()), 1e-9)
    for axes, (bits, group) in zip(panels, groups, strict=True):
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
        axes.set_title(f"{precision_name(bits)} − FP32")
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("difference of the generalization gap from FP32's (nats)")
    figure.suptitle(f"{network}: generalization gap under distortion", fontsize=9, x=0.01, ha="left")
    pairs = sorted({int(one) for one in rows["pairs"]})
    over = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    say_below(figure, f"{count:,} models judged; each difference is a mean over {over} matched configurations.")
    return figure


def progress(evidence: Evidence) -> Figure | None:
    """Jobs done and throughput over time; None where nothing is done."""
    found = timeline(evidence.attempts, evidence.jobs.set_index("job")["kind"])
    if found is None:
        return None
    figure, (left, right) = panels_of(2, columns=2, height=2.4)
    base = np.zeros(len(found.edges) - 1)
    widths = np.diff(found.edges)
    for colour, (kind, counts) in zip(("#0072b2", "#009e73", "#d55e00", "#cc79a7"), found.done.items(), strict=False):
        left.step(found.times, counts, where="post", color=colour, label=kind)
        right.bar(found.edges[:-1], found.rates[kind], widths, bottom=base, align="edge", color=colour, label=kind)
        base = base + np.array(found.rates[kind])
    left.set_title("Jobs done")
    left.set_ylabel("jobs")
    right.set_title("Throughput")
    right.set_ylabel("jobs per minute")
    for axes in (left, right):
        axes.set_xlabel(f"time since {found.start:%Y-%m-%d %H:%M} UTC ({found.unit})")
    legend_above(figure, left)
    few_numbers(left, "x", 8)
    few_numbers(right, "x", 8)
    done = ", ".join(f"{counts[-1]:,} of kind {kind}" for kind, counts in found.done.items())
    say_below(figure, f"{evidence.title}: {sum(counts[-1] for counts in found.done.values()):,} jobs done ({done})")
    return figure


def _counted(models: Models) -> str:
    """How many models a figure shows."""
    return counts_text(models.group, {precision_name(bits): len(group) for bits, group in by_bits(models.runs)})


DRAWN: dict[Picture, Callable[[Evidence, Models], Drawn]] = {
    Picture.STEP_SIZES: _step_sizes,
    Picture.DISTRIBUTIONS: _distributions,
    Picture.PAIRED: _paired,
    Picture.EFFECTS: _effects,
    Picture.CURVES: _curves,
    Picture.MEASURES: _measures,
    Picture.DISTORTION: _distortion,
}
