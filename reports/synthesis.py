"""The figure of one synthesis: its first images with what the model sees in them, its losses, and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from qsweep.reports.canvas import WIDTH, few_numbers, logarithmic, say_below
from qsweep.reports.evidence import Evidence
from qsweep.sweeps.job import Job

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 8
"""Images side by side."""
ROW = 1.0
"""Height of a row of images, in inches."""
LOSSES = {
    "statistics_loss": ("batch norm statistics", "-"),
    "image_loss": ("moments of the images", "--"),
    "matching_loss": ("matching", "-"),
    "diversity_loss": ("diversity", "--"),
}
GREY, SPREAD = 0.5, 0.25
"""Images are standardized. They are shown as 0.5 + 0.25·x of white, about what standardizing took away."""


def draw_synthesis(evidence: Evidence, identity: str) -> Figure:
    """The synthesis of this job. Of one with a second stage, the first images before it, after it, and what it changed
    (as in SADAG's Figure 1)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    row: Any = evidence.syntheses.set_index("job").loc[identity]
    job = next(one for one in evidence.spec.jobs() if one.identity == identity)
    pictures = evidence.synthetic_images[evidence.synthetic_images["job"] == identity].sort_values("image")
    losses = evidence.synthesis_losses[evidence.synthesis_losses["job"] == identity]
    lines = _lines(pictures, job)
    rows = -(-len(lines[0][1]) // ACROSS) if len(lines) == 1 else len(lines)
    figure = Figure(figsize=(WIDTH, rows * ROW + 2.0))
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(rows * ROW, 2.0))
    above, below = parts
    cells = above.subplots(rows, ACROSS, squeeze=False)
    _draw_images(cells, lines, pictures)
    charts = below.subplots(1, 2 if len(losses) else 1, squeeze=False)[0]
    if len(losses):
        _draw_losses(charts[0], losses)
    _draw_classes(charts[-1], row["class_counts"])
    say_below(figure, _caption(job, row, sum(len(one) for _, one in lines[:1])))
    return figure


Line: TypeAlias = tuple[str, list[np.ndarray[Any, np.dtype[np.float64]]]]
"""Images side by side, and what they are."""


def _lines(pictures: pd.DataFrame, job: Job) -> list[Line]:
    """The final images; where there was a second stage, those before it and the difference too."""
    final = [_planes(one, job) for one in pictures["pixels"]]
    if pictures["warm_up"].isna().any():
        return [("", [_shown(one) for one in final])]
    final = final[:ACROSS]
    warm = [_planes(one, job) for one in pictures["warm_up"][:ACROSS]]
    changes = [after - before for after, before in zip(final, warm, strict=True)]
    largest = max(max(float(np.abs(one).max()) for one in changes), 1e-9)
    return [
        ("warm-up", [_shown(one) for one in warm]),
        ("final", [_shown(one) for one in final]),
        (f"difference (±{largest:.2g})", [_colours(0.5 + 0.5 * one / largest) for one in changes]),
    ]


def _draw_images(cells: Any, lines: list[Line], pictures: pd.DataFrame) -> None:
    """With the class of each above its final image."""
    told = [f"{label} · {_percent(one)}" for label, one in zip(pictures["class"], pictures["confidence"], strict=True)]
    for cell in cells.flatten():
        cell.set(xticks=[], yticks=[])
        for spine in cell.spines.values():
            spine.set_visible(False)
        cell.grid(visible=False)
        cell.set_facecolor("none")
    for number, (name, images) in enumerate(lines):
        for place, image in enumerate(images):
            cell = cells[number + place // ACROSS, place % ACROSS]
            cell.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if name in ("", "final"):
                cell.set_title(told[place], fontsize=7, fontweight="normal", loc="center")
        if name:
            cells[number, 0].set_ylabel(name, fontsize=7)


def _planes(pixels: Any, job: Job) -> np.ndarray[Any, np.dtype[np.float64]]:
    data = job.training.data
    return np.asarray(pixels, dtype=np.float64).reshape(data.channels, data.size, data.size)


def _shown(planes: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Planes (channels, side, side) as a picture (side, side) or (side, side, 3) between 0 and 1."""
    return _colours(np.clip(GREY + SPREAD * planes, 0, 1))


def _colours(planes: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)


def _draw_losses(axes: Axes, losses: pd.DataFrame) -> None:
    """The mean over the batches, and in their midst the lowest and the highest of them."""
    values = list[float]()
    for place, (name, (label, style)) in enumerate(LOSSES.items()):
        found = losses.dropna(subset=[name]).groupby("iteration")[name]
        if not len(found):
            continue
        mean = found.mean()
        axes.plot(mean.index + 1, mean, style, color=f"C{place}", label=label)
        axes.fill_between(mean.index + 1, found.min(), found.max(), color=f"C{place}", alpha=0.2, linewidth=0)
        values += [float(one) for one in (*found.min(), *found.max()) if one > 0]
    logarithmic(axes, "y", values)
    few_numbers(axes, "x")
    axes.set_xlabel("iteration")
    axes.set_title("Loss")
    axes.legend()


def _draw_classes(axes: Axes, counts: Any) -> None:
    axes.bar(range(len(counts)), counts, color="#777777")
    few_numbers(axes, "x", 10)
    few_numbers(axes, "y")
    axes.set_xlabel("class that the model sees")
    axes.set_title("Images")


def _caption(job: Job, row: Any, shown: int) -> str:
    asked = job.settings()
    return (
        f"{job.training.model.title} on {job.training.data.title}, job {job.identity[:12]}: the first "
        f"{shown} of {asked['image_count']:,} images ({asked['images']}{_learned(asked)}), "
        f"with the class that the model sees and its "
        f"probability, {_percent(row['confidence'])} on average; {row['classes_seen']} of "
        f"{job.training.data.classes} classes. Distance from batch norm's statistics without swing: "
        f"{row['statistics_distance']:.3g}."
    )


def _learned(asked: Mapping[str, Any]) -> str:
    """How images came about that were learned."""
    if "image_batch" not in asked:
        return ""
    return f", batches of {asked['image_batch']}, {asked['image_iterations']:,}{_more(asked)} iterations"


def _more(asked: Mapping[str, Any]) -> str:
    """The iterations of a second stage."""
    return f" + {asked['sharp_iterations']:,}" if "sharp_iterations" in asked else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
