"""The kinds of jobs, one row a kind: what it takes, what it leaves, and who runs it. Everything else asks this table.

A kind that is added here, with its settings, the columns of its rows (`db.schema`) and its implementation
(`workers.kinds`), is claimed, invalidated, packed and counted like every other one, however long the chain above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from qsweep.sweeps.errors import InputError


class File(StrEnum):
    """What the file holds that a done job leaves for the jobs below it."""

    MODEL = "model"
    IMAGES = "images"


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """One kind of job. Two are equal only if they are the same row of the table."""

    name: str
    """As it is stored: in registries, identities and cohort keys. It never changes."""
    noun: str
    """What a user calls one such job; its plural is `plural`."""
    plural: str
    runs: str
    """The dotted name of the class that runs it, a `workers.kinds.Implementation`, imported at its first job."""
    rows: tuple[str, ...]
    """The kinds of result rows that a job has (`db.schema`): of the first exactly one."""
    parents: tuple[str, ...] = ()
    """The kinds of which its parent may be; none of a kind that begins a chain."""
    family: str = ""
    """The setting that says which of the `settings` classes a job has, such as `measure`."""
    settings: tuple[str, ...] = ()
    """The dotted names of the classes of its own settings, which stand beside those of the training above it. Each
    has a `name`, and `operations(training)`: what a job of it costs."""
    takes: tuple[File, ...] = ()
    """The files that it works on, each of the nearest ancestor that leaves one."""
    leaves: File | None = None
    """The file that it leaves, if it leaves one."""
    of_user: bool = False
    """Whether its jobs call the user's code: their settings, and what they return, qsweep does not know beforehand."""
    is_calibrated: bool = False
    """Whether it takes steps of training, for which `qsweep calibrate` times the forms of the convolutions."""
    side_by_side: bool = True
    """Whether several jobs of a cohort are computed together; otherwise an agent takes one after another."""

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_named, (self.name,)

    def classes(self) -> Mapping[str, type[Any]]:
        """The classes of its own settings, by name."""
        found = [_imported(dotted) for dotted in self.settings]
        return {one.name: one for one in found}

    def implementation(self) -> Any:
        """The class that runs it. Imports what it needs, torch among it."""
        return _imported(self.runs)


TRAIN = Kind(
    name="train",
    noun="training",
    plural="trainings",
    runs="qsweep.workers.kinds.train.Train",
    rows=("runs", "epochs", "layers"),
    leaves=File.MODEL,
    is_calibrated=True,
)
SYNTHESIS = Kind(
    name="synthesize",
    noun="synthesis",
    plural="syntheses",
    runs="qsweep.workers.kinds.synthesis.Synthesize",
    rows=("syntheses", "synthesis_losses", "synthetic_images"),
    parents=("train",),
    family="images",
    settings=tuple(f"qsweep.sweeps.zero_shot.{one}" for one in ("Genie", "Sadag", "Noise", "RealImages")),
    takes=(File.MODEL,),
    leaves=File.IMAGES,
    side_by_side=False,
)
QUANTIZATION = Kind(
    name="quantize",
    noun="quantization",
    plural="quantizations",
    runs="qsweep.workers.kinds.quantization.Quantize",
    rows=("quantizations", "units"),
    parents=("synthesize",),
    family="rounding",
    settings=("qsweep.sweeps.zero_shot.Nearest", "qsweep.sweeps.zero_shot.Reconstruction"),
    takes=(File.MODEL, File.IMAGES),
    leaves=File.MODEL,
    side_by_side=False,
)
FLATNESS = Kind(
    name="measure",
    noun="measure",
    plural="measures",
    runs="qsweep.workers.kinds.flatness.MeasureFlatness",
    rows=("measures",),
    parents=("train", "quantize"),
    family="measure",
    settings=("qsweep.sweeps.measures.PacBayes", "qsweep.sweeps.measures.Sharpness"),
    takes=(File.MODEL,),
)
DISTORTION = Kind(
    name="corrupt",
    noun="distortion",
    plural="distortions",
    runs="qsweep.workers.kinds.distortion.Distort",
    rows=("distortions",),
    parents=("train", "quantize"),
    family="measure",
    settings=("qsweep.sweeps.measures.Distortion",),
    takes=(File.MODEL,),
)

CALL = Kind(
    name="call",
    noun="run",
    plural="runs",
    runs="qsweep.workers.kinds.call.RunCalls",
    rows=("returned", "logged"),
    of_user=True,
)

KINDS: dict[str, Kind] = {one.name: one for one in (TRAIN, SYNTHESIS, QUANTIZATION, FLATNESS, DISTORTION, CALL)}
"""Every kind by its name, parents first."""


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises InputError for one that this version doesn't have."""
    if name not in KINDS:
        raise InputError(f"jobs of the kind {name!r} are unknown here", allowed="known: " + ", ".join(KINDS))
    return KINDS[name]


def kind_of(asked: object) -> Kind:
    """The kind of the jobs that have these settings of their own."""
    dotted = f"{type(asked).__module__}.{type(asked).__qualname__}"
    return next(one for one in KINDS.values() if dotted in one.settings)


def _imported(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
