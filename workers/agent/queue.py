"""What an agent needs of what hands out jobs: the registry, or the queue of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qsweep.db.rows import (
    EVERYTHING,
    Accepted,
    Calibration,
    Checkpoint,
    Claim,
    Fenced,
    Finished,
    Head,
    Load,
    Remaining,
    Scope,
)
from qsweep.db.states import FailureClass


class JobQueue(Protocol):
    """The calls of `db.queue.Queue`, whose laws hold here too.

    This module knows no database, so that an agent runs where there is none.
    """

    def beat(self, agent_id: int, note: str = "", load: Load | None = None) -> frozenset[int]: ...

    def next_cohort(self, agent_id: int, scope: Scope = EVERYTHING, *, parents: Sequence[int] = ()) -> Head | None: ...

    def claim(
        self, agent_id: int, head: Head, limit: int, scope: Scope = EVERYTHING, *, sharers: int = 1
    ) -> list[Claim]: ...

    def remaining(self, scope: Scope = EVERYTHING) -> Remaining: ...

    def calibration(self, *, shape: str, device: str, build: str, slots: int, form: str) -> Calibration: ...

    def resumed(self, agent_id: int, claim: Fenced, step: int) -> None: ...

    def checkpointed(self, agent_id: int, checkpoints: Sequence[Checkpoint]) -> Accepted: ...

    def finish(self, agent_id: int, finished: Sequence[Finished]) -> Accepted: ...

    def release(self, agent_id: int, claims: Sequence[Fenced], detail: str = "") -> frozenset[int]: ...

    def fail(
        self,
        agent_id: int,
        claims: Sequence[Fenced],
        failure_class: FailureClass,
        error: str,
        *,
        slots: int | None = None,
        kind: str = "",
    ) -> frozenset[int]: ...

    def reason_to_stop(self, agent_id: int) -> str: ...

    def pause_for(self, claims: Sequence[Fenced], reason: str) -> None: ...
