"""An agent that is told which job to run, and after each epoch whether to go on: one trial of a tuning run.

It speaks in lines with the process that started it. On its standard input it gets `run JOB` (the job's number in the
registry), `go` after an epoch, or `stop` to end the job there; at the end of the input it hands back what it
has and leaves. On its standard output it says, in JSON, `{"epochs": [row, …]}` after each epoch but the last
and `{"ended": true}` when the job is not its own any more: what became of it stands in the registry.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from qsweep.db.rows import Claim, Head
from qsweep.db.trials import Trials
from qsweep.workers.agent.endings import StoppedEarly
from qsweep.workers.agent.loop import Agent
from qsweep.workers.agent.saying import say
from qsweep.workers.agent.workplace import Workplace

if TYPE_CHECKING:
    from qsweep.workers.cohort import Cohort

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds after which an agent that waits for a word looks after its lease."""


class Orders:
    """The lines of a standard input, read by a thread of its own; None is its end, which also sets `stop`."""

    def __init__(self, lines: TextIO, stop: threading.Event) -> None:
        self._words: queue.Queue[str | None] = queue.Queue()
        self._lines = lines
        self._stop = stop
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next(self, timeout: float) -> str | None:
        """The next line; None at the end. Raises queue.Empty after `timeout` seconds."""
        return self._words.get(timeout=timeout)

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._words.put(line.strip())
        except (OSError, ValueError) as error:  # the process that gives the orders can't be heard any more
            log.error("the orders can't be read: %s", error)
        finally:
            self._stop.set()
            self._words.put(None)


class DirectedAgent(Agent):
    """An agent that claims nothing but what it is told to."""

    def __init__(self, place: Workplace, trials: Trials, orders: Orders) -> None:
        super().__init__(place)
        self._trials = trials
        self._orders = orders

    def run(self) -> None:
        """Run job after job until the orders end. Raises LeaseGone or LeaseLost."""
        while (order := self._next_order()) is not None:
            verb, _, job = order.partition(" ")
            if verb == "run":
                self._run_job(int(job))
                _say({"ended": True})

    def _run_job(self, job: int) -> None:
        claim = self._trials.claim(self.place.agent, job)
        if claim is not None:
            key, slots = claim.job.cohort_key, claim.slots_limit
            head = Head(job_id=job, cohort_key=key, job=claim.job, alone=True, slots_limit=slots)
            self._work([claim], self._plan(head))

    def _next_order(self) -> str | None:
        while not self.place.stop.is_set():
            self.place.check_lease()
            self.place.heartbeat.touch()
            try:
                return self._orders.next(WAIT)
            except queue.Empty:
                continue
        return None

    def _close_step(self, claim: Claim, row: Mapping[str, Any]) -> None:
        self._trials.report(self.place.agent, claim, [row])
        _say({"epochs": [row]})
        if self._next_order() == "stop":
            raise StoppedEarly(f"at step {row['step']}")

    def _close_epoch(self, claims: Sequence[Claim], cohort: Cohort) -> None:
        rows = cohort.history(0)
        self._trials.report(self.place.agent, claims[0], rows)
        if cohort.finished:
            return
        _say({"epochs": rows})
        if self._next_order() == "stop":
            raise StoppedEarly(f"at epoch {cohort.epoch}")


def _say(message: dict[str, Any]) -> None:
    say(json.dumps(message) + "\n")
