"""Trained models, judged by corrupted images."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from qsweep.db.rows import Claim
from qsweep.sweeps.measures import Distortion
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.corruptions.sets import CorruptedSets
from qsweep.workers.data import ImageFiles
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.source import flagged, named, source_of
from qsweep.workers.measures.distortion import Known, distort_models

log = logging.getLogger(__name__)


class Distort:
    """One corruption before the models of a cohort. A diverged training has no model: the row says so.

    The corrupted images, and what the models score on clean ones, are kept from cohort to cohort.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        home = tools.place.home
        self._sets = CorruptedSets(home.data, home.corruptions)
        self._known = Known()

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        log.info("%s: %d jobs", claims[0].job.cohort_key, len(claims))
        sound = {(source.identity, source.attempt): one for one in claims if not (source := source_of(one)).diverged}
        rows = self._distort(sound, plan, claims) if sound else {}
        yield Outcome(
            claims=claims,
            rows=[{"distortions": [named(claim) | rows.get(claim.job_id, flagged())]} for claim in claims],
        )

    def _distort(
        self, sound: dict[tuple[str, int], Claim], plan: Plan, claims: Sequence[Claim]
    ) -> dict[int, dict[str, Any]]:
        """What the models say of these jobs, by their numbers. `sound`: the jobs, by the training and its attempt."""
        tools = self._tools
        images = tools.images(claims[0].job.training.data)
        kept = {name: tools.models.of(source_of(claim)) for name, claim in sound.items()}
        tensors = {name: one.tensors for name, one in kept.items()}
        trainings = [claim.job.training for claim in sound.values()]
        measure = claims[0].job.measure
        assert isinstance(measure, Distortion)
        if isinstance(images, ImageFiles):  # to decode a million of them again takes long
            for name, model in kept.items():
                self._known.recall(name, model.passes or {})
        found = distort_models(
            trainings, tensors, measure, images, self._sets, self._known,
            slots=plan.slots, device=tools.place.device, quantized=claims[0].job.of_quantized,
            tick=partial(tools.progress(claims), 0, 1),
        )  # fmt: skip
        return {claim.job_id: row for claim, row in zip(sound.values(), found, strict=True)}
