"""The interactive page of landscapes: surfaces that one turns, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from qsweep.reports.landscape.grid import Configuration, Grid
from qsweep.reports.page.document import asset, embedded, hash_of, template
from qsweep.reports.quantization import COLOURS
from qsweep.sweeps.landscape import BETWEEN, PLANE, Landscape

DIGITS = 5
"""Significant digits of a value that the page draws."""
CAPTIONS = {
    PLANE: "Mean cross-entropy on training images at w + x·d₁ + y·d₂, in evaluation mode; d₁ and d₂ are Gaussian "
    "directions, filter-normalized, and the same for every precision. The dot is the model itself. Drag, or press the "
    "arrow keys, to turn all panels; after a click the wheel zooms.",
    "line": "Mean cross-entropy and accuracy on training images at w + x·d₁, in evaluation mode; d₁ is a Gaussian "
    "direction, filter-normalized, and the same for every precision.",
    BETWEEN: "Mean cross-entropy and accuracy on training images on the straight line from the first model (x = 0) to "
    "the second (x = 1), in evaluation mode; batch norm's running statistics are interpolated like the weights.",
}


def render_page(configurations: Sequence[Configuration], *, scale: str) -> str:
    """The page as one HTML document. The same landscapes give the same bytes."""
    grids = [grid for one in configurations for grid in one.grids]
    asked = grids[0].asked
    style, script = Markup(asset("page.css") + asset("landscape.css")), Markup(asset("landscape.js"))
    return template("landscape.html").render(
        heading="The line between two models" if asked.view == BETWEEN else "The loss around trained models",
        lead=_lead(configurations, grids),
        facts=_facts(grids),
        caption=CAPTIONS[asked.view],
        header=_header(asked),
        rows=[_row(one, grid) for one in configurations for grid in one.grids],
        remarks=list(_remarks(grids)),
        data=embedded({"scale": scale, "groups": [_content(one) for one in configurations]}),
        style=style,
        script=script,
        style_hash=hash_of(style),
        script_hash=hash_of(script),
    )


def _lead(configurations: Sequence[Configuration], grids: Sequence[Grid]) -> str:
    if grids[0].asked.view == BETWEEN:
        return f"{configurations[0].title}: {grids[0].precision}"
    precisions = ", ".join(dict.fromkeys(grid.precision for grid in grids))
    what = configurations[0].title if len(configurations) == 1 else f"{len(configurations)} configurations"
    return f"{what}, at {precisions}"


def _facts(grids: Sequence[Grid]) -> list[tuple[str, str]]:
    asked = grids[0].asked
    points = f"{asked.points} × {asked.points}" if asked.view == PLANE else f"{asked.points}"
    images = sorted({grid.provenance["images"] for grid in grids})
    seconds = sum(grid.provenance["seconds"] for grid in grids)
    return [
        ("Landscapes", f"{len(grids):,}"),
        ("Points of each", points),
        ("Training images", " or ".join(f"{count:,}" for count in images)),
        ("Compute", f"{seconds:,.0f} s"),
    ]


def _header(asked: Landscape) -> list[tuple[str, bool]]:
    ends = ["loss at x = 0", "loss at x = 1"] if asked.view == BETWEEN else ["loss (nats)", "accuracy (%)"]
    cosine = [("cosine of d₁, d₂", True)] if asked.view == PLANE else []
    names = [*ends, "highest loss", "not finite"]
    return [("Models", False), ("precision", False), ("job", False), *((name, True) for name in names), *cosine]


def _row(one: Configuration, grid: Grid) -> list[str]:
    finite = grid.loss[np.isfinite(grid.loss)]
    if grid.asked.view == BETWEEN:
        values = [_shown(grid.loss[0]), _shown(grid.loss[-1])]
    else:
        values = [_shown(grid.loss[grid.middle]), f"{100 * grid.accuracy[grid.middle]:.2f}"]
    values += [_shown(finite.max()) if finite.size else "–", str(grid.loss.size - finite.size)]
    if grid.asked.view == PLANE:
        values.append(f"{grid.provenance['cosine']:+.4f}".replace("-", "−"))
    return [one.title, grid.precision, ", ".join(job[:12] for job in grid.jobs), *values]


def _shown(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "not finite"


def _remarks(grids: Sequence[Grid]) -> list[str]:
    asked = grids[0].asked
    found = []
    if asked.view == PLANE:
        found.append("The directions are not orthogonalized: the table has the cosine of their angle.")
    if asked.view != BETWEEN:
        found.append("Biases, batch norm and step sizes stay as they are; each filter's direction has its norm.")
    quantized = [one for grid in grids for one in grid.trainings if one.quantizer is not None]
    if quantized and any(grid.asked.perturb == "quantized" for grid in grids):
        found.append("Of quantized models the weights that they compute with are moved, and not rounded again.")
    elif quantized:
        found.append("Of quantized models the latent weights are moved, and then rounded.")
    made = {key: sorted({str(grid.provenance[key]) for grid in grids}) for key in ("code", "torch", "device")}
    found.append("; ".join(f"{key} {', '.join(values)}" for key, values in made.items()) + f"; seed {asked.seed}.")
    return found


def _content(one: Configuration) -> dict[str, Any]:
    asked = one.asked
    along = "x: " + one.grids[0].precision if asked.view == BETWEEN else "x along d₁ (1: the norm of every filter)"
    return {
        "title": one.title,
        "view": asked.view,
        "points": asked.points,
        "radius": asked.radius,
        "axis": [_rounded(value) for value in asked.axis],
        "along": along,
        "grids": [_grid(grid) for grid in one.grids],
    }


def _grid(grid: Grid) -> dict[str, Any]:
    note = ""
    if grid.asked.view != BETWEEN:
        note = f"{_shown(grid.loss[grid.middle])} nats, {100 * grid.accuracy[grid.middle]:.1f}%"
    return {
        "precision": grid.precision,
        "note": note,
        "series": grid.called[-1].slot % len(COLOURS),
        "loss": [_rounded(value) for value in grid.loss.ravel().tolist()],
        "accuracy": [_rounded(value) for value in grid.accuracy.ravel().tolist()],
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
