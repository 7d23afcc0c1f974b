"""Searches for the flatness of trained models."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from qsweep.db.rows import Claim
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.measures import Search
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.source import flagged, named, source_of
from qsweep.workers.measures import measure_models

log = logging.getLogger(__name__)


class OtherInitialization(QsweepError):
    """The initial weights, drawn again from their seed, are not those that the training started from."""


class MeasureFlatness:
    """One search for each model of a cohort, side by side. A diverged training has no model: the row says so."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        log.info("%s: %d jobs", claims[0].job.cohort_key, len(claims))
        tools, tick = self._tools, self._tools.progress(claims)
        images = tools.images(claims[0].job.training.data)
        sound = [claim for claim in claims if not source_of(claim).diverged]
        found = [tools.models.of(source_of(claim)) for claim in sound]
        rows = []
        if sound:
            measure = sound[0].job.measure
            assert isinstance(measure, Search)
            trainings, tensors = [claim.job.training for claim in sound], [one.tensors for one in found]
            rows = measure_models(
                trainings, tensors, measure, images,
                device=tools.place.device, quantized=sound[0].job.of_quantized, tick=tick,
            )  # fmt: skip
        for claim, model, row in zip(sound, found, rows, strict=True):
            if model.init_hash is not None and model.init_hash != row["init_hash"]:
                raise OtherInitialization(
                    f"job {claim.job.identity[:12]}: seed {claim.job.training.recipe.seed} draws other initial weights "
                    f"here than where its model was trained (another version of torch?)"
                )
        measured = {claim.job_id: row for claim, row in zip(sound, rows, strict=True)}
        yield Outcome(
            claims=claims,
            rows=[{"measures": [named(claim) | measured.get(claim.job_id, flagged())]} for claim in claims],
        )
