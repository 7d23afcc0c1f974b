"""What an agent does with a cohort of jobs that measure trained models: models, measures, rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from qsweep.db.rows import Claim, ParentModel
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.measures import Distortion
from qsweep.workers.agent.models import Models
from qsweep.workers.corruptions.sets import CorruptedSets
from qsweep.workers.data import Collection, ImageFiles
from qsweep.workers.measures import measure_models
from qsweep.workers.measures.distortion import Known, distort_models


class OtherInitialization(QsweepError):
    """The initial weights, drawn again from their seed, are not those that the training started from."""


def measure_claims(
    claims: Sequence[Claim],
    models: Models,
    images: Collection,
    device: torch.device,
    tick: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The measure's columns of each claim's row. A diverged parent has no model: its row says so."""
    sound = [claim for claim in claims if not _parent(claim).diverged]
    found = [models.of(_parent(claim)) for claim in sound]
    measured: list[dict[str, Any]] = []
    if sound:
        measure = sound[0].job.measure
        assert measure is not None
        assert not isinstance(measure, Distortion)
        trainings = [claim.job.training for claim in sound]
        tensors = [one.tensors for one in found]
        measured = measure_models(trainings, tensors, measure, images, device=device, tick=tick)
    for claim, model, row in zip(sound, found, measured, strict=True):
        if model.init_hash is not None and model.init_hash != row["init_hash"]:
            raise OtherInitialization(
                f"job {claim.job.identity[:12]}: seed {claim.job.training.recipe.seed} draws other initial weights "
                f"here than where its model was trained (another version of torch?)"
            )
    rows = dict(zip((claim.job_id for claim in sound), measured, strict=True))
    return [_origin(_parent(claim)) | rows.get(claim.job_id, {"diverged": True}) for claim in claims]


def distort_claims(
    claims: Sequence[Claim],
    models: Models,
    images: Collection,
    sets: CorruptedSets,
    known: Known,
    *,
    slots: int,
    device: torch.device,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """The distortion's columns of each claim's row. A diverged parent has no model: its row says so."""
    sound = {(_parent(one).identity, _parent(one).attempt): one for one in claims if not _parent(one).diverged}
    rows: dict[int, dict[str, Any]] = {}
    if sound:
        kept = {name: models.of(_parent(claim)) for name, claim in sound.items()}
        tensors = {name: one.tensors for name, one in kept.items()}
        trainings = [claim.job.training for claim in sound.values()]
        measure = claims[0].job.measure
        assert isinstance(measure, Distortion)
        if isinstance(images, ImageFiles):  # to decode a million of them again takes long
            for name, model in kept.items():
                known.recall(name, model.passes or {})
        found = distort_models(trainings, tensors, measure, images, sets, known, slots=slots, device=device, tick=tick)
        rows = {claim.job_id: row for claim, row in zip(sound.values(), found, strict=True)}
    return [_origin(_parent(claim)) | rows.get(claim.job_id, {"diverged": True}) for claim in claims]


def _parent(claim: Claim) -> ParentModel:
    assert claim.parent is not None, "a measure job has a parent"
    return claim.parent


def _origin(parent: ParentModel) -> dict[str, Any]:
    return {"parent": parent.identity, "parent_attempt": parent.attempt, "model_hash": parent.model_hash}
