"""When a job writes a checkpoint, and from which one it goes on."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from qsweep.db.rows import Claim
from qsweep.workers import checkpoints
from qsweep.workers.agent.workplace import Workplace

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints of a cohort, at least."""
CHECKPOINT_SHARE = 0.02
"""Share of the time that may go into checkpoints."""
CHECKPOINT_STEPS = "QSWEEP_CHECKPOINT_STEPS"
"""The variable that asks for a checkpoint after every so many steps instead: for tests that count what was lost."""


def newest_state(place: Workplace, claim: Claim) -> dict[str, Any] | None:
    """What the newest checkpoint holds that can be read; None if there is none."""
    for age, checkpoint in enumerate(claim.checkpoints):
        try:
            state = checkpoints.load(place.home.checkpoints / checkpoint.file, checkpoint.checksum)
        except checkpoints.DamagedFile as error:
            log.warning("%s", error)
            continue
        if age:
            place.queue.resumed(place.agent, claim, checkpoint.step)
        return state
    if claim.checkpoints:
        place.queue.resumed(place.agent, claim, 0)
    return None


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
