"""What an agent does with a cohort of trainings: from their checkpoints to their results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.rows import Checkpoint, Claim
from qsweep.sweeps.faults import point
from qsweep.workers import checkpoints
from qsweep.workers.agent.endings import Stopped, StoppedEarly
from qsweep.workers.agent.workplace import Plan, Workplace
from qsweep.workers.cohort import Cohort, Result
from qsweep.workers.data import Collection
from qsweep.workers.weights import start_of

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints of a cohort, at least."""
CHECKPOINT_SHARE = 0.02
"""Share of the time that may go into checkpoints."""
CHECKPOINT_STEPS = "QSWEEP_CHECKPOINT_STEPS"
"""The variable that asks for a checkpoint after every so many steps instead: for tests that count what was lost."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trainings of a cohort that have ended, and the steps that this attempt took for them."""

    claims: Sequence[Claim]
    results: Sequence[Result]
    steps: int


def train_claims(
    place: Workplace,
    claims: Sequence[Claim],
    plan: Plan,
    images: Collection,
    *,
    on_end: Callable[[Trained], None],
    on_epoch: Callable[[Cohort], None] = lambda _: None,
) -> float:
    """Train to the end; the seconds that went into checkpoints.

    Raises Stopped or StoppedEarly (with a checkpoint written), TooLong or LeaseGone.

    `on_end` gets those whose training has ended: each that diverged after its epoch, all others together.
    `on_epoch` is called after each epoch of the whole cohort, and may raise StoppedEarly.
    """
    cohort = _cohort(place, claims, plan, images)
    try:
        return _train(place, claims, cohort, on_end, on_epoch)
    finally:
        cohort.close()


def _train(
    place: Workplace,
    claims: Sequence[Claim],
    cohort: Cohort,
    on_end: Callable[[Trained], None],
    on_epoch: Callable[[Cohort], None],
) -> float:
    started = time.monotonic()
    first, pace, left = cohort.position, Pace(), list(claims)
    recorder = Recorder(place, claims, cohort)

    def interrupt() -> None:
        place.check_stop(left)

    def end(members: Sequence[int], results: Sequence[Result]) -> None:
        ended = [claims[member] for member in members]
        on_end(Trained(claims=ended, results=results, steps=cohort.position - first))

    log.info("%s: %d jobs from step %d of %d", claims[0].job.cohort_key, len(claims), first, cohort.steps)
    try:
        # A checkpoint may have been written between an epoch's end and the retirement.
        _retire(claims, cohort, end, interrupt)
        while not cohort.finished:
            cohort.step()
            point("step", cohort.active)
            left = [claims[member] for member in cohort.left]
            place.report(left, cohort.position, cohort.steps)
            if cohort.between_epochs:
                _note(claims, cohort)
                _retire(claims, cohort, end, interrupt)
                on_epoch(cohort)
                left = [claims[member] for member in cohort.left]
            if not left:
                break
            place.check_stop(left)
            place.check_time(started, cohort.position, cohort.steps)
            if pace.due(cohort.position):
                with pace:
                    recorder.save()
        if cohort.left:
            end(cohort.left, cohort.results(interrupt))
    except (Stopped, StoppedEarly):
        recorder.save()
        raise
    return pace.spent


def _note(claims: Sequence[Claim], cohort: Cohort) -> None:
    """One line of the log an epoch, with the loss of each job."""
    losses = ", ".join(
        f"{claims[member].job.identity[:12]} {loss:.4f}" for member, (loss, _) in cohort.last_epoch().items()
    )
    log.info("epoch %d of %d, training loss: %s", cohort.epoch, claims[0].job.training.recipe.epochs, losses)


def _retire(
    claims: Sequence[Claim],
    cohort: Cohort,
    end: Callable[[Sequence[int], Sequence[Result]], None],
    interrupt: Callable[[], None],
) -> None:
    """End the trainings that diverged: what they would still train changes nothing."""
    if not cohort.between_epochs or not (lost := cohort.lost()):
        return
    jobs = ", ".join(claims[member].job.identity[:12] for member in lost)
    log.info("the loss is not finite any more, ended after epoch %d: %s", cohort.epoch, jobs)
    end(lost, cohort.retire(lost, interrupt))


def _cohort(place: Workplace, claims: Sequence[Claim], plan: Plan, images: Collection) -> Cohort:
    cohort = Cohort(
        [claim.job.training for claim in claims],
        images,
        slots=plan.slots,
        form=plan.form,
        device=place.device,
        tick=place.heart.touch,
        start=start_of(claims[0].job.training, place.home.weights),
    )
    for member, claim in enumerate(claims):
        restore(place, cohort, member, claim)
    return cohort


def restore(place: Workplace, cohort: Cohort, member: int, claim: Claim) -> None:
    """Go on from the newest checkpoint that can be read."""
    for age, checkpoint in enumerate(claim.checkpoints):
        try:
            state = checkpoints.load(place.home.checkpoints / checkpoint.file, checkpoint.checksum)
        except checkpoints.DamagedFile as error:
            log.warning("%s", error)
            continue
        cohort.restore(member, state)
        if age:
            place.registry.resumed(place.agent, claim, checkpoint.step)
        return
    if claim.checkpoints:
        place.registry.resumed(place.agent, claim, 0)


class Recorder:
    """Writes the checkpoints of a cohort, and with them the epochs that its trainings have done."""

    def __init__(self, place: Workplace, claims: Sequence[Claim], cohort: Cohort) -> None:
        self._place, self._claims, self._cohort = place, claims, cohort
        self._told: dict[int, int] = {}

    def save(self) -> None:
        """Write a checkpoint of every member that is left, then record them in one transaction."""
        folder = self._place.home.checkpoints
        records = [self._write(folder, member) for member in self._cohort.left]
        deletable = self._place.registry.checkpointed(self._place.agent, records).deletable
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


class Pace:
    """When the next checkpoint is due: often enough to lose little, rarely enough to cost little."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._interval = CHECKPOINT_EVERY
        self._steps = int(os.environ.get(CHECKPOINT_STEPS, "0"))
        self.spent = 0.0

    def due(self, step: int) -> bool:
        if self._steps:
            return step % self._steps == 0
        return time.monotonic() - self._last >= self._interval

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *error: object) -> None:
        now = time.monotonic()
        self.spent += now - self._last
        self._interval = max(CHECKPOINT_EVERY, (now - self._last) / CHECKPOINT_SHARE)
        self._last = now
