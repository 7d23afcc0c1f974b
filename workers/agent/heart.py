"""The heartbeat of an agent."""

from __future__ import annotations

import logging
import threading
import time

from db.errors import LeaseLost
from sweeps.errors import QsweepError
from sweeps.faults import point
from workers.agent.queue import JobQueue

log = logging.getLogger(__name__)


class Heart:
    """Beats for an agent from a thread of its own, as long as the agent makes progress.

    Without progress for `patience` seconds it stops beating, so that the lease runs out and another agent
    takes the work. When the lease turns out to be lost, `lost` is set and the agent has to stop.
    `unwanted` holds the claimed jobs that no sweep wants any more.
    """

    def __init__(self, registry: JobQueue, agent: int, *, lease: float, patience: float) -> None:
        self.registry = registry
        self.agent = agent
        self.interval = lease / 3
        self.patience = patience
        self.lost = threading.Event()
        self.unwanted: frozenset[int] = frozenset()
        self._note = ""
        self._progressed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, note: str) -> None:
        """The agent has got on: `note` says with what."""
        self._note = note
        self.touch()

    def touch(self) -> None:
        """The agent still gets on with the same."""
        self._progressed = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(self.interval):
            if time.monotonic() - self._progressed > self.patience:
                log.error("no progress for %.0f s (%s): the heartbeat stops", self.patience, self._note)
                self.lost.set()
                return
            try:
                point("heartbeat")
                self.unwanted = self.registry.beat(self.agent, self._note)
            except LeaseLost:
                log.error("the lease of agent %d is lost: its work is discarded", self.agent)
                self.lost.set()
                return
            except QsweepError as error:
                log.error("no heartbeat: %s", error)  # the next one may get through
