"""The heartbeat of an agent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qsweep.db.errors import LeaseLost
from qsweep.db.rows import Load
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point
from qsweep.workers.agent.queue import JobQueue

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds without an optimizer step after which an agent counts as hung."""
OUTAGE = 60.0
"""Seconds beyond a lease for which an agent works on without a heartbeat that got through: as long as every other call
to the registry is repeated."""


class Heartbeat:
    """Beats for an agent from a thread of its own, as long as the agent makes progress.

    Without progress for `patience` seconds it stops beating, so that the lease runs out and another agent
    takes the work. When the lease turns out to be lost, `lost` is set and the agent has to stop.
    A heartbeat that fails is tried again: while the registry is away nobody else can take the lease. But an agent
    whose last heartbeat is a lease and a minute old has to stop as well (`gives_up`), whatever keeps its heartbeat from
    getting through: a registry that is away, a call that does not return, a thread that ended.
    `unwanted` holds the claimed jobs that no sweep wants any more. With a `gauge` it tells what the agent uses.
    """

    def __init__(
        self,
        queue: JobQueue,
        agent: int,
        *,
        lease: float,
        patience: float,
        gauge: Callable[[], Load | None] | None = None,
    ) -> None:
        self.queue = queue
        self.agent = agent
        self.interval = lease / 3
        self.patience = patience
        self.lost = threading.Event()
        self.unwanted: frozenset[int] = frozenset()
        self.look: Callable[[float], None] = lambda progressed: None
        """Told at each beat when the agent got on last."""
        self._gauge = gauge
        self._note = ""
        self._silence = lease + OUTAGE
        self._progressed = self._beaten = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._beaten = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat. One that waits for a registry that does not answer ends with the process."""
        self._over.set()
        self._thread.join(self.interval)

    def gives_up(self) -> bool:
        """Whether the agent's jobs are somebody else's by now, or may be: it has to stop. Asked by the agent itself."""
        silent = time.monotonic() - self._beaten
        if not self.lost.is_set() and silent > self._silence:
            log.error("no heartbeat got through for %.0f s: the agent gives up its jobs", silent)
            self.lost.set()
        return self.lost.is_set()

    def progress(self, note: str) -> None:
        """The agent has got on: `note` says with what."""
        self._note = note
        self.touch()

    def touch(self) -> None:
        """The agent still gets on with the same."""
        self._progressed = time.monotonic()

    def _beat(self) -> None:
        try:
            while not self._over.wait(self.interval) and not self.lost.is_set():
                self._beat_once()
        except Exception:
            log.exception("the heartbeat ended by an error of its own: the agent gives up its jobs")
            self.lost.set()

    def _beat_once(self) -> None:
        self.look(self._progressed)
        if time.monotonic() - self._progressed > self.patience:
            log.error("no progress for %.0f s (%s): the heartbeat stops", self.patience, self._note)
            self.lost.set()
            return
        try:
            point("heartbeat")
            self.unwanted = self.queue.beat(self.agent, self._note, self._load())
            self._beaten = time.monotonic()
        except LeaseLost:
            log.error("the lease of agent %d is lost: its work is discarded", self.agent)
            self.lost.set()
        except QsweepError as error:
            log.error("no heartbeat: %s", error)  # the next one may get through

    def _load(self) -> Load | None:
        """What the agent uses. A reading that fails is its last, and costs no beat: it is only looked at."""
        try:
            return None if self._gauge is None else self._gauge()
        except Exception:
            log.exception("what this agent uses is not read any more")
            self._gauge = None
            return None
