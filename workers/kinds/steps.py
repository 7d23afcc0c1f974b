"""Work in steps, one job after another, each from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from qsweep.db.rows import Checkpoint, Claim
from qsweep.sweeps.faults import point
from qsweep.workers import checkpoints
from qsweep.workers.agent.endings import Stopped
from qsweep.workers.kinds.base import Tools
from qsweep.workers.kinds.checkpointing import Pace, newest_state

log = logging.getLogger(__name__)


class Stepwise(Protocol):
    """What is done in `steps` and goes on from its `state` with the same bits."""

    position: int

    @property
    def steps(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    def step(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


def take_steps(tools: Tools, claim: Claim, left: Sequence[Claim], made: Stepwise) -> None:
    """Take the steps that are left of a claim. `left`: the jobs that are not done yet, of which it is the first.

    Writes a checkpoint now and then, and before it raises Stopped.
    """
    state = newest_state(tools.place, claim)
    if state is not None:
        made.restore(state)
    log.info("%s: from step %d of %d", claim.job.identity[:12], made.position, made.steps)
    tick, pace = tools.progress(left), Pace()
    while not made.finished:
        made.step()
        point("step", 1)
        try:
            tick(made.position, made.steps)
        except Stopped:
            _save(tools, claim, made)
            raise
        if pace.due(made.position) and not made.finished:
            with pace:
                _save(tools, claim, made)


def _save(tools: Tools, claim: Claim, made: Stepwise) -> None:
    place = tools.place
    file = f"{claim.job.identity}/{claim.attempt}-{made.position}.pt"
    checksum = checkpoints.save(place.home.checkpoints / file, made.state())
    saved = Checkpoint(
        job_id=claim.job_id, attempt=claim.attempt, step=made.position, epoch=0, file=file, checksum=checksum
    )
    deletable = place.queue.checkpointed(place.agent, [saved]).deletable
    point("checkpoint.recorded", 1)
    for old in deletable:
        (place.home.checkpoints / old).unlink(missing_ok=True)
