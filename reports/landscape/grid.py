"""The file of one landscape: Parquet with one row a point, and its provenance in the file's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qsweep.reports.quantization import Quantization, quantization_of
from qsweep.sweeps.components import naming_settings
from qsweep.sweeps.landscape import BETWEEN, PLANE, Landscape
from qsweep.sweeps.training import Training
from qsweep.sweeps.wholefiles import whole_file

VERSION = 1
METADATA = b"qsweep.landscape"
"""The key of the provenance, as JSON, in the metadata of the file."""
COLUMNS = pa.schema(
    [
        pa.field("job", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
        pa.field("i", pa.int32(), nullable=False),
        pa.field("j", pa.int32()),
        pa.field("x", pa.float64(), nullable=False),
        pa.field("y", pa.float64()),
        pa.field("loss", pa.float64()),
        pa.field("accuracy", pa.float64(), nullable=False),
    ]
)

"""`job`: the trained model (of `between`: the first). `identity`: of this landscape. j and y are null off a plane.
`loss`: mean cross-entropy (nats), null where it is not finite; `accuracy` from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One landscape: loss and accuracy at its points, [i, j] of a plane, [i] of a line; NaN where not finite."""

    asked: Landscape
    identity: str
    jobs: tuple[str, ...]
    trainings: tuple[Training, ...]
    loss: np.ndarray
    accuracy: np.ndarray
    provenance: Mapping[str, Any]
    quantized: tuple[Mapping[str, Any], ...] = ({}, {})
    """What settings each has beside its training's: those of a quantization on images."""

    @property
    def precision(self) -> str:
        """`Int4`; of a line between two models `FP32 → Int4`."""
        return " → ".join(map(str, self.called))

    @property
    def called(self) -> tuple[Quantization, ...]:
        """What each of the models is called."""
        both = zip(self.trainings, self.quantized, strict=False)
        return tuple(quantization_of({**training.settings(), **more}) for training, more in both)

    @property
    def axis(self) -> np.ndarray:
        return np.array(self.asked.axis)

    @property
    def middle(self) -> tuple[int, ...]:
        """The place of the model itself, on a plane or a line."""
        return (self.asked.points // 2,) * self.loss.ndim

    @property
    def name(self) -> str:
        """What its files are called."""
        return file_name(self.precision, self.jobs, self.identity)


def file_name(precision: str, jobs: tuple[str, ...], identity: str) -> str:
    return "-".join([re.sub("[^A-Za-z0-9]+", "-", precision), *(job[:12] for job in jobs), identity[:8]])


def write_grid(grid: Grid, path: Path) -> None:
    """Write the file so that it is there whole or not at all."""
    places = range(grid.asked.size)
    points = [grid.asked.coordinates(place) for place in places]
    plane, count = grid.asked.view == PLANE, grid.asked.points
    losses = [value if value == value else None for value in grid.loss.ravel().tolist()]
    columns = {
        "job": [grid.jobs[0]] * len(points),
        "identity": [grid.identity] * len(points),
        "precision": [grid.precision] * len(points),
        "i": [place // count if plane else place for place in places],
        "j": [place % count if plane else None for place in places],
        "x": [point[0] for point in points],
        "y": [point[1] if plane else None for point in points],
        "loss": losses,
        "accuracy": grid.accuracy.ravel().tolist(),
    }
    content = {
        "version": VERSION,
        "identity": grid.identity,
        "jobs": list(grid.jobs),
        "landscape": grid.asked.settings(),
        "trainings": [one.settings() for one in grid.trainings],
        **grid.provenance,
    }
    if any(grid.quantized):
        content["quantized"] = list(grid.quantized)
    schema = COLUMNS.with_metadata({METADATA: json.dumps(content)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, tidy=True) as file:
        pq.write_table(pa.table(columns, schema=schema), file)


def read_grid(path: Path) -> Grid:
    """What `write_grid` wrote. Raises ValueError if the file is no landscape, or not a whole one."""
    try:
        table = pq.read_table(path, schema=COLUMNS)
        content = json.loads((pq.read_schema(path).metadata or {})[METADATA])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no landscape: {error}") from error
    asked = Landscape.from_settings(content.pop("landscape"))
    if content.pop("version") != VERSION or table.num_rows != asked.size:
        raise ValueError(f"{path} holds another kind of landscape, or a part of one")
    shape = (asked.points,) * (2 if asked.view == PLANE else 1)
    loss, accuracy = (table[name].to_numpy().astype(np.float64).reshape(shape) for name in ("loss", "accuracy"))
    return Grid(
        asked=asked,
        identity=content.pop("identity"),
        jobs=tuple(content.pop("jobs")),
        trainings=tuple(Training.from_settings(one) for one in content.pop("trainings")),
        quantized=tuple(content.pop("quantized", ({}, {}))),
        loss=loss,
        accuracy=accuracy,
        provenance=content,
    )


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The landscapes of models that differ in precision alone, full precision first; or one line between two."""

    title: str
    slug: str
    grids: tuple[Grid, ...]

    @property
    def asked(self) -> Landscape:
        return self.grids[0].asked


def configurations(grids: list[Grid]) -> list[Configuration]:
    """The grids by configuration, in the order in which they come."""
    groups: dict[str, list[Grid]] = {}
    for grid in grids:
        shown = {**_settings(grid), "view": grid.asked.view}
        key = grid.identity if grid.asked.view == BETWEEN else json.dumps(shown, sort_keys=True)
        groups.setdefault(key, []).append(grid)
    members = [sorted(group, key=lambda grid: grid.called[0]) for group in groups.values()]
    settings = [_settings(group[0]) for group in members]
    varying = [name for name in settings[0] if len({json.dumps(one.get(name)) for one in settings}) > 1]
    found = []
    for group, values in zip(members, settings, strict=True):
        training = group[0].trainings[0]
        network = f"{training.model.title} {training.model.shape}".strip()
        details = [f"{name.replace('_', ' ')} {values[name]}" for name in varying if values.get(name) is not None]
        slug = f"{training.data.name}-{training.model.label}-{group[0].identity[:8]}"
        title = f"{network} on {training.data.title}"
        found.append(
            Configuration(
                title=", ".join([title, *(one for one in details if not one.startswith(("width", "depth", "model")))]),
                slug=slug,
                grids=tuple(group),
            )
        )
    return found


def _settings(grid: Grid) -> dict[str, Any]:
    """Settings of the training, but for those that models are called by."""
    found, naming = grid.trainings[0].settings(), naming_settings()
    return {name: value for name, value in found.items() if name not in naming}
