"""Figure 1 of QGen: the learned step size of each layer, by bit width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import Sweep
from reports.answers import spec_of
from reports.table import mean_and_error, precision_name
from sweeps.errors import InputError
from sweeps.job import Kind

Series = dict[str, dict[int, list[tuple[str, float]]]]
"""For each network: for each bit width, the layers in order with their mean step sizes."""


def draw_step_sizes(home: Home, registry: Registry, sweep: Sweep, folder: Path) -> list[Path]:
    """Write one picture a network (PNG and SVG) to `folder`; their paths. Raises InputError if there is nothing."""
    jobs = {job.identity: job.training for job in spec_of(sweep).jobs() if job.kind is Kind.TRAIN}
    networks = {
        identity: (f"{one.data.name} {one.model.label}", one.bits) for identity, one in jobs.items() if one.quantizer
    }
    columns = ["job", "layer", "index", "step_size"]
    rows = ResultStore(home.store).read("layers", registry.committed(sweep.id), columns=columns).to_pylist()
    series = step_sizes(rows, networks)
    if not series:
        raise InputError("no quantized model is done yet", place=sweep.title)
    folder.mkdir(parents=True, exist_ok=True)
    return [path for network, widths in series.items() for path in _draw(network, widths, folder)]


def step_sizes(rows: Iterable[Mapping[str, Any]], networks: Mapping[str, tuple[str, int]]) -> Series:
    """Mean step size of each layer over the models of a network (name, bits) by job, from rows of `layers`."""
    found: dict[tuple[str, int], dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["job"] in networks and row["step_size"] is not None:
            found[networks[row["job"]]][row["index"], row["layer"]].append(row["step_size"])
    series: Series = defaultdict(dict)
    for (network, bits), layers in sorted(found.items(), key=lambda item: (item[0][0], -item[0][1])):
        means = [(layer, mean_and_error(values)[0]) for (_, layer), values in sorted(layers.items())]
        series[network][bits] = [(layer, mean) for layer, mean in means if mean is not None]
    return dict(series)


def _draw(network: str, widths: Mapping[int, list[tuple[str, float]]], folder: Path) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it takes a second to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for bits, layers in widths.items():
        names, sizes = [layer for layer, _ in layers], [size for _, size in layers]
        axes.plot(range(len(sizes)), sizes, marker="o", label=precision_name(bits))
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize="small")
    axes.set_yscale("log")
    axes.set_ylabel("step size s")
    axes.set_title(f"{network}: step size per layer")
    axes.grid(alpha=0.3)
    axes.legend()
    paths = [folder / f"figure1-{network.replace(' ', '-')}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
