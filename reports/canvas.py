"""What every figure is drawn with: one style, panels, ticks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsweep.reports.formats import FileFormat
from qsweep.reports.labels import few_ticks
from qsweep.reports.quantization import Quantization
from qsweep.sweeps.wholefiles import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
LETTER = 0.058
"""Inches that a letter of a tick takes."""
SMALL = 0.052
"""And one of the line below a figure."""
HALF = 3.5
"""Width of a figure with one panel: legend and caption want their room."""


def panels_of(count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most, columns = columns, min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(HALF if count == 1 and columns < most else WIDTH, rows * height + 0.1))
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def say_below(figure: Figure, text: str) -> None:
    """A line below the figure: what it shows, of how many models."""
    width = figure.get_size_inches()[0]
    lines = textwrap.wrap(text, int(width / SMALL), break_on_hyphens=False)
    figure.set_figheight(figure.get_figheight() + 0.14 * len(lines))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7, color="#555555")


def legend_above(figure: Figure, axes: Axes, *, always: bool = False) -> None:
    """The precisions, above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 or (always and labels):
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), columnspacing=1.4)


def save(figure: Figure, path: Path, form: FileFormat) -> Path:
    """Write the figure to a file that appears whole."""
    with whole_file(path, tidy=True) as file:
        figure.savefig(file, format=form.value, dpi=200, metadata=UNDATED[form.value])
    return path


def look(one: Quantization) -> dict[str, Any]:
    """How a series of these models is drawn."""
    return {"color": one.colour, "marker": one.marker, "label": str(one)}


def logarithmic(axes: Axes, side: str, values: Sequence[float]) -> None:
    """Make the axis of that side ("x" or "y") logarithmic, with few ticks that are written as numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    getattr(axes, f"set_{side}scale")("log")
    low, high = min(values), max(values)
    axis = axes.xaxis if side == "x" else axes.yaxis
    ticks = few_ticks(low, high, 4 if side == "x" else 5)
    if len(ticks) < 2:  # no two round numbers lie within: the limits reach to the next ones
        ticks = few_ticks(low / 1.6, high * 1.6, 4)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    edge = (min(low, *ticks), max(high, *ticks))
    pad = max((edge[1] / edge[0]) ** 0.04, 1.02)
    getattr(axes, f"set_{side}lim")(edge[0] / pad, edge[1] * pad)


def few_numbers(axes: Axes, side: str, most: int = 5) -> None:
    """At most that many ticks on a linear axis."""
    from matplotlib.ticker import MaxNLocator

    (axes.xaxis if side == "x" else axes.yaxis).set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))


def name_ticks(axes: Axes, labels: Sequence[str], width: float) -> None:
    """Names at 0, 1, 2, … of an axis that is that many inches wide: turned where they would run into each other."""
    turned = len(labels) * max(map(len, labels), default=0) * LETTER > 0.85 * width
    more: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(len(labels)), list(labels), **more)
