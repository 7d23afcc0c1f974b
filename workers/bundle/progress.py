"""How far a bundle is, in a plain line from time to time."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter

from qsweep.db.progress import Progress, Rhythm, Speed, partial_work
from qsweep.db.rows import Counts
from qsweep.db.states import State
from qsweep.workers.bundle.local_queue import LocalQueue

PAUSE = 1.0
"""Seconds between two looks at the queue."""


class Pace:
    """Says on stderr how far the queue's jobs are, and how long the rest will take."""

    def __init__(self, queue: LocalQueue) -> None:
        self._queue = queue
        self._rhythm = Rhythm()
        self._speed = Speed()
        self._next = 0.0
        self._costs = {entry.claim.job.cohort_key: entry.cost for entry in queue.entries.values()}

    def show(self, *, last: bool = False) -> None:
        if not last and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAUSE
        progress = self.progress()
        if self._rhythm.is_due(progress.share) or last:
            sys.stderr.write(progress.line() + "\n")
            sys.stderr.flush()

    def progress(self) -> Progress:
        entries = self._queue.entries.values()
        held = Counter(entry.agent for entry in entries if entry.agent is not None)
        partial = partial_work([(text, held[agent]) for agent, text in self._queue.notes.items()], self._costs)
        work = {state: math.fsum(entry.cost for entry in entries if entry.state is state) for state in State}
        self._speed.look(work[State.DONE] + partial)
        lately, seconds = self._speed.lately()
        return Progress(
            counts=Counts(**{state.value: self._queue.count(state) for state in State}),
            work=math.fsum(work.values()),
            left=max(work[State.QUEUED] + work[State.RUNNING] - partial, 0.0),
            lately=lately,
            seconds=seconds,
        )
