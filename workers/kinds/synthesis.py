"""Images synthesized from trained models."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial

from qsweep.db.model_names import model_name
from qsweep.db.rows import Checkpoint, Claim
from qsweep.sweeps.faults import point
from qsweep.sweeps.zero_shot import Genie
from qsweep.workers import checkpoints
from qsweep.workers.agent.endings import Stopped
from qsweep.workers.agent.models import KeptFile
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.checkpointing import Pace, newest_state
from qsweep.workers.kinds.source import flagged, named, source_of
from qsweep.workers.zero_shot.synthesis import Found, Synthesizer

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
        asked, training = claim.job.measure, claim.job.training
        assert isinstance(asked, Genie)
        model = self._tools.models.of(source_of(claim))
        made = Synthesizer(training, model.tensors, asked, device=self._tools.place.device)
        state = newest_state(self._tools.place, claim)
        if state is not None:
            made.restore(state)
        log.info("%s: from step %d of %d", claim.job.identity[:12], made.position, made.steps)
        self._follow(claim, left, made)
        if made.diverged:
            log.info("%s: the loss is not finite any more", claim.job.identity[:12])
            return _without_images(claim)
        found = made.found()
        rows = {
            "syntheses": [named(claim) | found.row()],
            "synthesis_losses": list(found.loss_rows()),
            "synthetic_images": list(found.image_rows()),
        }
        return Outcome(claims=[claim], rows=[rows], write=partial(self._write, claim, found))

    def _follow(self, claim: Claim, left: Sequence[Claim], made: Synthesizer) -> None:
        """Take the steps that are left. Writes a checkpoint now and then, and before it raises Stopped."""
        tick, pace = self._tools.progress(left), Pace()
        while not made.finished:
            made.step()
            point("step", 1)
            try:
                tick(made.position, made.steps)
            except Stopped:
                self._save(claim, made)
                raise
            if pace.due(made.position) and not made.finished:
                with pace:
                    self._save(claim, made)

    def _save(self, claim: Claim, made: Synthesizer) -> None:
        place = self._tools.place
        file = f"{claim.job.identity}/{claim.attempt}-{made.position}.pt"
        checksum = checkpoints.save(place.home.checkpoints / file, made.state())
        saved = Checkpoint(
            job_id=claim.job_id, attempt=claim.attempt, step=made.position, epoch=0, file=file, checksum=checksum
        )
        deletable = place.queue.checkpointed(place.agent, [saved]).deletable
        point("checkpoint.recorded", 1)
        for old in deletable:
            (place.home.checkpoints / old).unlink(missing_ok=True)

    def _write(self, claim: Claim, found: Found, place: int) -> KeptFile:
        file = model_name(claim.job.identity, claim.attempt)
        return file, checkpoints.save(self._tools.models.folder / file, {IMAGES: found.images})


def _without_images(claim: Claim) -> Outcome:
    return Outcome(claims=[claim], rows=[{"syntheses": [named(claim) | flagged()]}])
