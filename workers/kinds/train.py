"""Trainings: from their checkpoints to their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from qsweep.db.rows import Checkpoint, Claim
from qsweep.sweeps.faults import point
from qsweep.workers import checkpoints
from qsweep.workers.agent.endings import Stopped, StoppedEarly
from qsweep.workers.agent.models import KeptFile, Models
from qsweep.workers.agent.workplace import Plan, Workplace
from qsweep.workers.cohort import Cohort, Result
from qsweep.workers.data import Collection
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.checkpointing import Pace, newest_state
from qsweep.workers.weights import start_of

log = logging.getLogger(__name__)


class Train:
    """Trains the jobs of a cohort side by side, from their checkpoints to their results."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        """Those that diverged end after their epoch, all others together."""
        cohort = _cohort(self._tools.place, claims, plan, self._tools.images(claims[0].job.training.data))
        try:
            yield from self._train(claims, cohort)
        finally:
            cohort.close()

    def _train(self, claims: Sequence[Claim], cohort: Cohort) -> Generator[Outcome, None, None]:
        place, started = self._tools.place, time.monotonic()
        pace, left = Pace(), list(claims)
        recorder = Recorder(place, claims, cohort)
        ending = _Ending(self._tools.models, claims, cohort, lambda: place.check_stop(left))
        log.info("%s: %d jobs from step %d of %d", claims[0].job.cohort_key, len(claims), cohort.position, cohort.steps)
        try:
            # A checkpoint may have been written between an epoch's end and the retirement.
            yield from ending.diverged()
            while not cohort.finished:
                cohort.step()
                point("step", cohort.active)
                left = [claims[member] for member in cohort.left]
                place.report(left, cohort.position, cohort.steps)
                if cohort.between_epochs:
                    _note(claims, cohort)
                    yield from ending.diverged()
                    self._tools.on_epoch(claims, cohort)
                    left = [claims[member] for member in cohort.left]
                if not left:
                    break
                place.check_stop(left)
                place.check_time(started, cohort.position, cohort.steps)
                if pace.due(cohort.position):
                    with pace:
                        recorder.save()
            if cohort.left:
                yield ending.all()
        except (Stopped, StoppedEarly):
            recorder.save()
            raise
        seconds = time.monotonic() - started
        log.info("%.2f s of %.2f s went into checkpoints and models", pace.spent + ending.keeping, seconds)


class _Ending:
    """The ends of trainings in a cohort: their results as outcomes, their models kept in memory for a while."""

    def __init__(self, models: Models, claims: Sequence[Claim], cohort: Cohort, interrupt: Callable[[], None]) -> None:
        self._models = models
        self._claims = claims
        self._cohort = cohort
        self._interrupt = interrupt
        self._first = cohort.position
        self.keeping = 0.0
        """Seconds that went into the files of models."""

    def diverged(self) -> Generator[Outcome, None, None]:
        """End the trainings that diverged: what they would still train changes nothing."""
        if not self._cohort.between_epochs or not (lost := self._cohort.lost()):
            return
        jobs = ", ".join(self._claims[member].job.identity[:12] for member in lost)
        log.info("the loss is not finite any more, ended after epoch %d: %s", self._cohort.epoch, jobs)
        yield self._outcome(lost, self._cohort.retire(lost, self._interrupt))

    def all(self) -> Outcome:
        """End all that are left."""
        return self._outcome(self._cohort.left, self._cohort.results(self._interrupt))

    def _outcome(self, members: Sequence[int], results: Sequence[Result]) -> Outcome:
        ended = [self._claims[member] for member in members]
        for claim, result in zip(ended, results, strict=True):
            self._models.remember(claim, result)

        def write(place: int) -> KeptFile:
            began = time.monotonic()
            kept = self._models.write(ended[place], results[place])
            self.keeping += time.monotonic() - began
            return kept

        return Outcome(
            claims=ended,
            rows=[{"runs": [one.run], "epochs": one.epochs, "layers": one.layers} for one in results],
            write=write,
            steps=self._cohort.position - self._first,
        )


def _note(claims: Sequence[Claim], cohort: Cohort) -> None:
    """One line of the log an epoch, with the loss of each job."""
    losses = ", ".join(
        f"{claims[member].job.identity[:12]} {loss:.4f}" for member, (loss, _) in cohort.last_epoch().items()
    )
    log.info("epoch %d of %d, training loss: %s", cohort.epoch, claims[0].job.training.recipe.epochs, losses)


def _cohort(place: Workplace, claims: Sequence[Claim], plan: Plan, images: Collection) -> Cohort:
    training = claims[0].job.training
    cohort = Cohort(
        [claim.job.training for claim in claims],
        images,
        slots=plan.slots,
        form=plan.form,
        device=place.device,
        tick=place.heartbeat.touch,
        start=start_of(training, place.home.weights),
        teacher=None if training.teacher is None else start_of(training.teacher, place.home.weights),
    )
    for member, claim in enumerate(claims):
        restore(place, cohort, member, claim)
    return cohort


def restore(place: Workplace, cohort: Cohort, member: int, claim: Claim) -> None:
    """Go on from the newest checkpoint that can be read."""
    state = newest_state(place, claim)
    if state is not None:
        cohort.restore(member, state)


class Recorder:
    """Writes the checkpoints of a cohort, and with them the epochs that its trainings have done."""

    def __init__(self, place: Workplace, claims: Sequence[Claim], cohort: Cohort) -> None:
        self._place, self._claims, self._cohort = place, claims, cohort
        self._told: dict[int, int] = {}

    def save(self) -> None:
        """Write a checkpoint of every member that is left, then record them in one transaction."""
        folder = self._place.home.checkpoints
        records = [self._write(folder, member) for member in self._cohort.left]
        deletable = self._place.queue.checkpointed(self._place.agent, records).deletable
        self._told |= {
            member: len(one.curve) for member, one in zip(self._cohort.left, records, strict=True) if one.curve
        }
        point("checkpoint.recorded", len(records))
        for file in deletable:
            (folder / file).unlink(missing_ok=True)

    def _write(self, folder: Path, member: int) -> Checkpoint:
        claim, step = self._claims[member], self._cohort.position_of(member)
        epoch = step // claim.job.training.steps_per_epoch
        file = f"{claim.job.identity}/{claim.attempt}-{step}.pt"
        checksum = checkpoints.save(folder / file, self._cohort.state(member))
        return Checkpoint(
            job_id=claim.job_id,
            attempt=claim.attempt,
            step=step,
            epoch=epoch,
            file=file,
            checksum=checksum,
            curve=self._cohort.history(member) if epoch > self._told.get(member, 0) else (),
        )
