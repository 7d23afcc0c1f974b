"""Images synthesized from trained models."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial

import torch
from torch import Tensor

from qsweep.db.model_names import model_name
from qsweep.db.rows import Claim
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie, Noise, RealImages
from qsweep.workers import checkpoints
from qsweep.workers.agent.models import KeptFile
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.data import source_of as images_of
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.source import flagged, named, source_of
from qsweep.workers.kinds.steps import take_steps
from qsweep.workers.zero_shot.bounds import draw_noise, draw_real
from qsweep.workers.zero_shot.synthesis import Found, Synthesizer, look_at
from qsweep.workers.zero_shot.teacher import Teacher

CPU = torch.device("cpu")
log = logging.getLogger(__name__)

IMAGES = "images"
"""Of the file that a synthesis leaves, its one entry: images (N, channels, side, side), standardized, in float32."""


class Synthesize:
    """One synthesis after another, each from its newest checkpoint. Of a diverged training there is no model: its row
    says so."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        for number, claim in enumerate(claims):
            if source_of(claim).diverged:
                yield _without_images(claim)
            else:
                yield self._synthesize(claim, claims[number:])

    def _synthesize(self, claim: Claim, left: Sequence[Claim]) -> Outcome:
        """`left`: the jobs that are not done yet, of which this is the first."""
        asked, training, device = claim.job.measure, claim.job.training, self._tools.place.device
        model = self._tools.models.of(source_of(claim))
        if isinstance(asked, Genie):
            made = Synthesizer(training, model.tensors, asked, device=device)
            take_steps(self._tools, claim, left, made)
            if made.diverged:
                log.info("%s: the loss is not finite any more", claim.job.identity[:12])
                return _without_images(claim)
            found = made.found()
        else:
            assert isinstance(asked, Noise)
            images = draw_noise(asked, training) if not isinstance(asked, RealImages) else self._real(asked, training)
            found = look_at(Teacher(training, model.tensors, device, images.dtype), asked, images, device)
        rows = {
            "syntheses": [named(claim) | found.row()],
            "synthesis_losses": list(found.loss_rows()),
            "synthetic_images": list(found.image_rows()),
        }
        return Outcome(claims=[claim], rows=[rows], write=partial(self._write, claim, found))

    def _real(self, asked: RealImages, training: Training) -> Tensor:
        """Training images, standardized as in training."""
        source = images_of(self._tools.images(training.data), training.recipe, CPU, torch.float32)
        try:
            return draw_real(asked, source)
        finally:
            source.close()

    def _write(self, claim: Claim, found: Found, place: int) -> KeptFile:
        file = model_name(claim.job.identity, claim.attempt)
        return file, checkpoints.save(self._tools.models.folder / file, {IMAGES: found.images})


def _without_images(claim: Claim) -> Outcome:
    return Outcome(claims=[claim], rows=[{"syntheses": [named(claim) | flagged()]}])
