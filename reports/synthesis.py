"""The figure of one synthesis: its first images with what the model sees in them, its losses, and its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
LOSSES = {"statistics_loss": ("batch norm statistics", "-"), "image_loss": ("moments of the images", "--")}
GREY, SPREAD = 0.5, 0.25
"""Images are standardized. They are shown as 0.5 + 0.25·x of white, about what standardizing took away."""


def draw_synthesis(evidence: Evidence, identity: str) -> Figure:
    """The synthesis of this job."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    row: Any = evidence.syntheses.set_index("job").loc[identity]
    job = next(one for one in evidence.spec.jobs() if one.identity == identity)
    pictures = evidence.synthetic_images[evidence.synthetic_images["job"] == identity].sort_values("image")
    losses = evidence.synthesis_losses[evidence.synthesis_losses["job"] == identity]
    rows = -(-len(pictures) // ACROSS)
    figure = Figure(figsize=(WIDTH, rows * ROW + 2.0))
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(rows * ROW, 2.0))
    above, below = parts
    cells = above.subplots(rows, ACROSS, squeeze=False).flatten()
    for cell in cells:
        cell.set_axis_off()
    for cell, (_, one) in zip(cells, pictures.iterrows(), strict=False):
        cell.imshow(_shown(one["pixels"], job), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        cell.set_title(f"{one['class']} · {_percent(one['confidence'])}", fontsize=7, fontweight="normal", loc="center")
    left, right = below.subplots(1, 2)
    _draw_losses(left, losses)
    _draw_classes(right, row["class_counts"])
    say_below(figure, _caption(job, row, len(pictures)))
    return figure


def _shown(pixels: Any, job: Job) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Pixels (channels, side, side) as a picture (side, side) or (side, side, 3) between 0 and 1."""
    data = job.training.data
    picture = np.asarray(pixels, dtype=np.float64).reshape(data.channels, data.size, data.size)
    picture = np.clip(GREY + SPREAD * picture, 0, 1)
    return picture[0] if data.channels == 1 else np.moveaxis(picture, 0, -1)


def _draw_losses(axes: Axes, losses: pd.DataFrame) -> None:
    """The mean over the batches, and in their midst the lowest and the highest of them."""
    values = list[float]()
    for place, (name, (label, style)) in enumerate(LOSSES.items()):
        found = losses.dropna(subset=[name]).groupby("iteration")[name]
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
        f"{job.training.model.title} on {job.training.data.title}, job {job.identity[:12]}: the first {shown} of "
        f"{asked['image_count']:,} images ({asked['images']}, batches of {asked['image_batch']}, "
        f"{asked['image_iterations']:,} iterations), with the class that the model sees and its probability, "
        f"{_percent(row['confidence'])} on average; {row['classes_seen']} of {job.training.data.classes} classes. "
        f"Distance from batch norm's statistics without swing: {row['statistics_distance']:.3g}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
