"""Figure 2 of QGen: surfaces and contours of the loss, one panel a precision, all of a figure on one scale."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsweep.reports.canvas import STYLE, WIDTH, look, save
from qsweep.reports.formats import FileFormat
from qsweep.reports.landscape.grid import Configuration, Grid
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.landscape import BETWEEN, PLANE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP = "viridis"
"""Its lightness rises evenly, so that people with any colour vision read it alike."""
LEVELS = 16
"""Contours from the lowest to the highest loss of a figure."""
SPAN = 1e6
"""A logarithmic scale shows that many times less than the highest loss: what is lower lies on its floor."""
COLUMNS = 4
LETTER = 0.072
"""Inches that a letter of a caption takes."""


class Scale(StrEnum):
    """How heights are shown. Far from a minimum the loss is many times that in it."""

    LOG = "log"
    LINEAR = "linear"


@dataclass(frozen=True, kw_only=True)
class Range:
    """The lowest and the highest loss that a figure shows; NaN and infinity are drawn as the highest."""

    scale: Scale
    low: float
    high: float

    @classmethod
    def of(cls, grids: Sequence[Grid], scale: Scale) -> Range:
        """The range of all these landscapes: one scale for all of them."""
        losses = np.concatenate([grid.loss.ravel() for grid in grids])
        losses = losses[np.isfinite(losses)]
        if not losses.size:
            return cls(scale=scale, low=1.0 if scale is Scale.LOG else 0.0, high=10.0)
        high = float(losses.max())
        if scale is Scale.LINEAR:
            return cls(scale=scale, low=0.0, high=high or 1.0)
        positive = losses[losses > 0]
        low = max(float(positive.min()), high / SPAN) if positive.size else 1.0
        return cls(scale=scale, low=low, high=max(high, 2 * low))

    def shown(self, losses: np.ndarray) -> np.ndarray:
        """Losses within the range, NaN and infinity at its top."""
        return np.clip(np.where(np.isfinite(losses), losses, self.high), self.low, self.high)

    def heights(self, losses: np.ndarray) -> np.ndarray:
        """What stands on the axis: the loss, or its decimal logarithm."""
        shown = self.shown(losses)
        return np.log10(shown) if self.scale is Scale.LOG else shown

    @property
    def levels(self) -> np.ndarray:
        """Losses of contours: even steps of what is shown."""
        if self.scale is Scale.LOG:
            return np.geomspace(self.low, self.high, LEVELS)
        return np.linspace(self.low, self.high, LEVELS)

    @property
    def ticks(self) -> list[float]:
        """Losses to name on the axis."""
        if self.scale is Scale.LINEAR:
            from matplotlib.ticker import MaxNLocator

            return [float(tick) for tick in MaxNLocator(5).tick_values(0, self.high) if tick <= self.high * 1.001]
        powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
        leads = (1,) if len(powers) > 3 else (1, 3)
        return [lead * 10.0**one for one in powers for lead in leads if self.low <= lead * 10.0**one <= self.high]


def draw_landscapes(configurations: Sequence[Configuration], folder: Path, scale: Scale) -> list[Path]:
    """Write every figure as PDF, PNG and SVG; their paths. Raises InputError if `folder` can't be written."""
    from matplotlib import rc_context

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE):
            for one in configurations:
                for name, figure in drawn_figures(one, scale):
                    paths += [save(figure, folder / f"{name}-{one.slug}.{form}", form) for form in FileFormat]
    except OSError as error:
        raise InputError(f"the figures can't be written: {error.strerror}", place=f"--out {folder}") from None
    return paths


def drawn_figures(one: Configuration, scale: Scale) -> list[tuple[str, Figure]]:
    """The figures of a configuration, by name."""
    if one.asked.view == PLANE:
        return [("surface", _surfaces(one, scale)), ("contour", _contours(one, scale))]
    return [("line", _lines(one, scale))]


def _panels(count: int, *, columns: int, height: float, **kind: Any) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH * (0.6 if columns == 1 else 1), rows * height + 0.3))
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, number + 1, **kind) for number in range(count)]


def _caption(one: Configuration) -> str:
    images = one.grids[0].provenance["images"]
    what = f"on {images:,} training images"
    if one.asked.view == BETWEEN:
        return f"{one.title}: from {one.grids[0].precision.replace('→', 'to')}, {what}"
    return f"{one.title}: loss around the trained models, {what}"


def _head(figure: Figure, one: Configuration) -> None:
    """Write the caption above the panels, which leave room for it, and for names that 3-D axes put outside."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(_caption(one), int(width / LETTER))
    figure.text(0.01, 1 - 0.06 / height, "\n".join(lines), va="top", fontsize=9)
    engine: Any = figure.get_layout_engine()
    right = 0.97 if one.asked.view == PLANE else 1.0
    engine.set(rect=(0, 0, right, 1 - (0.1 + 0.17 * len(lines)) / height))


def panel_title(grid: Grid) -> str:
    """Precision, and loss and accuracy of the model itself."""
    loss, accuracy = grid.loss[grid.middle], grid.accuracy[grid.middle]
    return f"{grid.precision}  {loss:.3g} nats, {100 * accuracy:.1f}%"


def _surfaces(one: Configuration, scale: Scale) -> Figure:
    span = Range.of(one.grids, scale)
    figure, panels = _panels(len(one.grids), columns=2, height=3.3, projection="3d")
    axis = one.grids[0].axis
    x, y = np.meshgrid(axis, axis, indexing="ij")
    norm = _norm(span)
    colours = _map()
    for panel, grid in zip(panels, one.grids, strict=True):
        axes: Any = panel
        heights, losses = span.heights(grid.loss), span.shown(grid.loss)
        faces = colours(norm(_cells(losses)))
        faces[..., :3] *= _light(
            heights, axis, float(span.heights(np.array(span.high)) - span.heights(np.array(span.low)))
        )
        axes.plot_surface(
            x, y, heights, facecolors=faces, rstride=1, cstride=1, linewidth=0.1, shade=False, rasterized=True
        )
        axes.set_zlim(*span.heights(np.array([span.low, span.high])))
        axes.set_zticks(span.heights(np.array(span.ticks)), [f"{tick:g}" for tick in span.ticks])
        axes.set_xlabel("along d₁", labelpad=-4)
        axes.set_ylabel("along d₂", labelpad=-4)
        axes.set_zlabel("loss (nats)", labelpad=-2)
        axes.tick_params(pad=-1)
        ends = [float(axis[0]), 0.0, float(axis[-1])]
        axes.set_xticks(ends)
        axes.set_yticks(ends)
        axes.set_title(panel_title(grid))
        axes.view_init(elev=32, azim=-55)
        axes.set_box_aspect((1, 1, 0.75), zoom=0.95)
    _head(figure, one)
    return figure


def _cells(values: np.ndarray) -> np.ndarray:
    """The mean of each cell's corners."""
    mean: np.ndarray = (values[:-1, :-1] + values[1:, :-1] + values[1:, 1:] + values[:-1, 1:]) / 4
    return mean


def _light(heights: np.ndarray, axis: np.ndarray, tall: float) -> np.ndarray:
    """How bright each cell is: light from above and a side, on a surface as tall as it is wide."""
    width = axis[-1] - axis[0]
    run = (axis[1] - axis[0]) / width
    along = np.diff(heights, axis=0) / tall / run
    across = np.diff(heights, axis=1) / tall / run
    along, across = (along[:, :-1] + along[:, 1:]) / 2, (across[:-1] + across[1:]) / 2
    light = (0.45 * along - 0.3 * across + 0.84) / np.sqrt(along**2 + across**2 + 1)
    bright: np.ndarray = np.clip(0.7 + 0.34 * np.maximum(light, 0), 0, 1)[..., None]
    return bright


def _contours(one: Configuration, scale: Scale) -> Figure:
    span = Range.of(one.grids, scale)
    figure, panels = _panels(len(one.grids), columns=min(COLUMNS, len(one.grids)), height=2.5)
    figure.set_layout_engine("compressed")
    norm = _norm(span)
    drawn = None
    for axes, grid in zip(panels, one.grids, strict=True):
        losses = span.shown(grid.loss).T
        drawn = axes.pcolormesh(grid.axis, grid.axis, losses, norm=norm, cmap=MAP, shading="gouraud", rasterized=True)
        if losses.min() < losses.max():
            levels = span.levels
            inside = levels[(levels > losses.min()) & (levels < losses.max())]
            lines = axes.contour(grid.axis, grid.axis, losses, levels=inside, colors="white", linewidths=0.5)
            axes.clabel(lines, inside[::3], fmt=lambda level: f"{level:.2g}", fontsize=6)
        axes.plot(0, 0, marker="+", color="white", markersize=6)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_title(panel_title(grid).replace("  ", "\n"))
        axes.set_xticks([float(grid.axis[0]), 0.0, float(grid.axis[-1])])
        axes.set_xlabel("along d₁ (filter norms)")
        if axes is panels[0]:
            axes.set_ylabel("along d₂ (filter norms)")
        else:
            axes.tick_params(labelleft=False)
    if drawn is not None:
        bar = figure.colorbar(
            drawn, ax=panels, orientation="horizontal", aspect=60, shrink=0.6 if len(panels) > 1 else 1, pad=0.02
        )
        bar.set_ticks(span.ticks, labels=[f"{tick:g}" for tick in span.ticks])
        bar.set_label("mean cross-entropy (nats)")
        bar.outline.set_visible(False)
    _head(figure, one)
    return figure


def _lines(one: Configuration, scale: Scale) -> Figure:
    """Loss and accuracy along a direction, or between two models."""
    figure, panels = _panels(2, columns=2, height=2.9)
    between = one.asked.view == BETWEEN
    for grid in one.grids:
        line = look(grid.called[0]) | {"label": grid.precision, "marker": ""}
        panels[0].plot(grid.axis, grid.loss, **line)
        panels[1].plot(grid.axis, 100 * grid.accuracy, **line)
        middle = len(grid.axis) // 2
        ends = [0, len(grid.axis) - 1] if between else [middle]
        mark = look(grid.called[0]) | {"label": None, "linestyle": "none"}
        panels[0].plot(grid.axis[ends], grid.loss[ends], **mark)
        panels[1].plot(grid.axis[ends], 100 * grid.accuracy[ends], **mark)
    for axes, title, label in zip(
        panels, ("Training loss", "Training accuracy"), ("cross-entropy (nats)", "images (%)"), strict=True
    ):
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xlabel(f"x: {one.grids[0].precision}" if between else "along d₁ (filter norms)")
    if scale is Scale.LOG and all((grid.loss > 0).all() for grid in one.grids):
        panels[0].set_yscale("log")
    if not between:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _head(figure, one)
    return figure


def _norm(span: Range) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    return (LogNorm if span.scale is Scale.LOG else Normalize)(span.low, span.high)


def _map() -> Any:
    from matplotlib import colormaps

    return colormaps[MAP]
