"""What an agent works with, whatever its jobs do."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qsweep.db.home import Home
from qsweep.db.rows import Claim
from qsweep.workers.agent.endings import InterruptedByUser, LeaseGone, Stopped, TooLong
from qsweep.workers.agent.heartbeat import Heartbeat
from qsweep.workers.agent.queue import JobQueue
from qsweep.workers.agent.stopping import StopRequest
from qsweep.workers.forms import Form
from qsweep.workers.hardware import Hardware

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How cohorts of one key are run on this device."""

    slots: int
    form: Form


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """One agent's registry, folders, device and signals."""

    home: Home
    queue: JobQueue
    hardware: Hardware
    agent: int
    code: str
    heartbeat: Heartbeat
    stop: threading.Event
    """Set when the agent is asked to checkpoint, hand its jobs back and leave."""
    time_limit: float = math.inf
    """Seconds that one attempt may take."""
    memory: int = 0
    """Bytes that a run of the user's code may take; 0 is what is free when it begins."""
    incarnation: str = ""
    """That of the registry, which publications bear in their names."""
    published: Callable[[], None] = lambda: None
    """Told whenever results have been counted."""

    @property
    def device(self) -> torch.device:
        """The device, for those who compute with torch."""
        import torch  # here: an agent that only runs functions of users never imports it

        return torch.device(self.hardware.type)

    def report(self, claims: Sequence[Claim], step: int, steps: int) -> None:
        """Tell the registry how far these jobs are. Raises LeaseGone if they are somebody else's by now."""
        self.check_lease()
        note = {"cohort": claims[0].job.cohort_key, "jobs": len(claims), "step": step, "steps": steps}
        self.heartbeat.progress(json.dumps(note))

    def check_lease(self) -> None:
        if self.heartbeat.gives_up():
            raise LeaseGone

    def is_to_stop(self, claims: Sequence[Claim]) -> bool:
        """Whether the agent has to leave, or no sweep wants any of these jobs. One wanted job carries the rest on."""
        return self.stop.is_set() or self.heartbeat.unwanted.issuperset(claim.job_id for claim in claims)

    def check_time(self, started: float, step: int, steps: int) -> None:
        """Raises TooLong when an attempt that began at `started` (monotonic seconds) has had its time."""
        if time.monotonic() - started > self.time_limit:
            raise TooLong(f"not done after {self.time_limit:g} s, at step {step} of {steps}")

    def check_stop(self, claims: Sequence[Claim]) -> None:
        if self.is_to_stop(claims):
            by_user = isinstance(self.stop, StopRequest) and self.stop.by_user
            raise InterruptedByUser if by_user else Stopped
