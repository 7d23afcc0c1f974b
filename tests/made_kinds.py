"""Two kinds of jobs that the product does not have: sketches, which stand on distortions, and traces of sketches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import torch

from qsweep.db import schema
from qsweep.db.model_names import model_name
from qsweep.db.rows import Claim
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import DISTORTION, KINDS, File, Kind
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.settings import Rule, setting
from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.agent.models import KeptFile
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.source import named, source_of


@dataclass(frozen=True, kw_only=True)
class Sketch:
    name: ClassVar[str] = "sketch"
    semantics: ClassVar[int] = 1

    strokes: int = setting(Rule(low=1, high=100), default=3)

    def operations(self, training: Training) -> float:
        return float(self.strokes)


@dataclass(frozen=True, kw_only=True)
class Trace:
    name: ClassVar[str] = "trace"
    semantics: ClassVar[int] = 1

    scale: float = setting(Rule(above=0, high=10), default=2.0)

    def operations(self, training: Training) -> float:
        return 1.0


class DrawSketches:
    """A sketch is a row of as many numbers as it has strokes, each the sum of its model's tensors."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        inks = [_ink(self._tools, claim) for claim in claims]

        def write(place: int) -> KeptFile:
            claim = claims[place]
            file = model_name(claim.job.identity, claim.attempt)
            drawing = torch.full((sketch_of(claim.job).strokes,), inks[place])
            return file, checkpoints.save(self._tools.models.folder / file, {"drawing": drawing})

        rows = [
            {"sketches": [named(claim) | {"ink": ink, "diverged": False}]}
            for claim, ink in zip(claims, inks, strict=True)
        ]
        yield Outcome(claims=claims, rows=rows, write=write)


class TraceSketches:
    """A trace is the sum of a sketch, scaled, minus the ink of the model."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        yield Outcome(claims=claims, rows=[{"traces": [self._row(claim)]} for claim in claims])

    def _row(self, claim: Claim) -> dict[str, Any]:
        sketch = claim.source(File.IMAGES)
        assert sketch is not None
        asked: Any = claim.job.measure
        drawn = float(self._tools.models.of(sketch).tensors["drawing"].sum())
        return named(claim) | {"length": asked.scale * drawn - _ink(self._tools, claim), "diverged": False}


def _ink(tools: Tools, claim: Claim) -> float:
    return sum(float(one.double().sum()) for one in tools.models.of(source_of(claim)).tensors.values())


def sketch_of(job: Job) -> Sketch:
    asked: Any = job.measure
    return asked


SKETCH = Kind(
    name="sketch",
    noun="sketch",
    plural="sketches",
    runs="tests.made_kinds.DrawSketches",
    rows=("sketches",),
    parents=(DISTORTION.name,),
    family="drawing",
    settings=("tests.made_kinds.Sketch",),
    takes=(File.MODEL,),
    leaves=File.IMAGES,
)
TRACE = Kind(
    name="trace",
    noun="trace",
    plural="traces",
    runs="tests.made_kinds.TraceSketches",
    rows=("traces",),
    parents=(SKETCH.name,),
    family="drawing",
    settings=("tests.made_kinds.Trace",),
    takes=(File.IMAGES, File.MODEL),
)
MODEL_COLUMNS = (pa.field("parent", pa.string()), pa.field("parent_attempt", pa.int32()))
DIVERGED = pa.field("diverged", pa.bool_())


def register_kinds(patch: pytest.MonkeyPatch) -> None:
    """Make both kinds known: a row each in the table of kinds, and the columns of their results."""
    for kind, number in ((SKETCH, "ink"), (TRACE, "length")):
        patch.setitem(KINDS, kind.name, kind)
        (rows,) = kind.rows
        hashed = pa.field("model_hash", pa.string())
        found = (*MODEL_COLUMNS, hashed, DIVERGED, pa.field(number, pa.float64()))
        columns = pa.schema([*schema.KEY, *schema.PROVENANCE, *schema.SETTINGS, *schema.own_settings(kind), *found])
        patch.setitem(schema.ROW_KINDS, rows, schema.RowKind(name=rows, columns=columns))


def chain_on(training: Job, *, corruption: str = "fog", strokes: int = 3, scale: float = 2.0) -> list[Job]:
    """The training, a distortion of it, a sketch of that, and a trace of the sketch."""
    found = [training]
    asked: tuple[tuple[Kind, Any], ...] = (
        (DISTORTION, Distortion(corruption=corruption, severity=1)),
        (SKETCH, Sketch(strokes=strokes)),
        (TRACE, Trace(scale=scale)),
    )
    for kind, settings in asked:
        found.append(
            Job(training=training.training, kind=kind, parent=found[-1].identity, measure=settings),
        )
    return found
