"""What an agent does with a cohort of trainings: from their checkpoints to their results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from db.rows import Checkpoint, Claim
from sweeps.faults import point
from workers import checkpoints
from workers.agent.endings import Stopped, StoppedEarly
from workers.agent.workplace import Plan, Workplace
from workers.cohort import Cohort, Result
from workers.data import Collection
from workers.weights import start_of

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints of a cohort, at least."""
CHECKPOINT_SHARE = 0.02
"""Share of the time that may go into checkpoints."""
CHECKPOINT_STEPS = "QSWEEP_CHECKPOINT_STEPS"
"""The variable that asks for a checkpoint after every so many steps instead: for tests that count what was lost."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The results of a cohort, in the claims' order, and the steps that this attempt took for them.

    `saving`: seconds that went into checkpoints.
    """

    results: Sequence[Result]
    steps: int
    saving: float


def train_claims(
    place: Workplace,
    claims: Sequence[Claim],
    plan: Plan,
    images: Collection,
    *,
    on_epoch: Callable[[Cohort], None] = lambda _: None,
) -> Trained:
    """Train to the end. Raises Stopped or StoppedEarly (with a checkpoint written), TooLong or LeaseGone.

    `on_epoch` is called after each epoch of the whole cohort, and may raise StoppedEarly.
    """
    cohort = _cohort(place, claims, plan, images)
    try:
        return _train(place, claims, cohort, on_epoch)
    finally:
        cohort.close()


def _train(place: Workplace, claims: Sequence[Claim], cohort: Cohort, on_epoch: Callable[[Cohort], None]) -> Trained:
    started = time.monotonic()
    first, pace = cohort.position, Pace()
    log.info("%s: %d jobs from step %d of %d", claims[0].job.cohort_key, len(claims), first, cohort.steps)
    while not cohort.finished:
        cohort.step()
        point("step", cohort.active)
        place.report(claims, cohort.position, cohort.steps)
        try:
            if cohort.between_epochs:
                on_epoch(cohort)
            place.check_stop(claims)
        except (Stopped, StoppedEarly):
            save(place, claims, cohort)
            raise
        place.check_time(started, cohort.position, cohort.steps)
        if pace.due(cohort.position):
            with pace:
                save(place, claims, cohort)
    try:
        results = cohort.results(lambda: place.check_stop(claims))
    except Stopped:
        save(place, claims, cohort)
        raise
    return Trained(results=results, steps=cohort.steps - first, saving=pace.spent)


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


def save(place: Workplace, claims: Sequence[Claim], cohort: Cohort) -> None:
    """Write a checkpoint of every member, then record them in one transaction."""
    folder, records = place.home.checkpoints, []
    for member, claim in enumerate(claims):
        step = cohort.position_of(member)
        file = f"{claim.job.identity}/{claim.attempt}-{step}.pt"
        checksum = checkpoints.save(folder / file, cohort.state(member))
        records.append(
            Checkpoint(
                job_id=claim.job_id,
                attempt=claim.attempt,
                step=step,
                epoch=step // claim.job.training.steps_per_epoch,
                file=file,
                checksum=checksum,
            )
        )
    deletable = place.registry.checkpointed(place.agent, records).deletable
    point("checkpoint.recorded", len(records))
    for file in deletable:
        (folder / file).unlink(missing_ok=True)


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
