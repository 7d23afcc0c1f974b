"""How far a bundle is, in one line from time to time."""

from __future__ import annotations

import json
import math
import sys
import time

from qsweep.db.states import State
from qsweep.workers.bundle.desk import Desk


class Pace:
    """Says on stderr how far the desk's jobs are, and how long the rest will take."""

    EVERY = 15.0

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._began = time.monotonic()
        self._said = -math.inf
        self._at_start = self._operations()

    def show(self, *, last: bool = False) -> None:
        if last or time.monotonic() - self._said >= self.EVERY:
            self._said = time.monotonic()
            sys.stderr.write(self.summary() + "\n")
            sys.stderr.flush()

    def summary(self) -> str:
        """One line."""
        counted = ", ".join(
            f"{self._desk.count(state)} {state.value}" for state in (State.RUNNING, State.QUEUED, State.FAILED)
        )
        return f"{self._desk.count(State.DONE)}/{len(self._desk.entries)} done, {counted} · {self._left()}"

    def _left(self) -> str:
        total = sum(entry.cost for entry in self._desk.entries.values() if entry.state is not State.FAILED)
        done = self._operations()
        since, seconds = done - self._at_start, time.monotonic() - self._began
        if total <= done:
            return f"{seconds:.0f} s"
        return f"{(total - done) / since * seconds / 60:.1f} min left" if since > 0 else "unknown time left"

    def _operations(self) -> float:
        """Those of the jobs that are done, and of what runs as far as it is."""
        done = sum(entry.cost for entry in self._desk.entries.values() if entry.state is State.DONE)
        held: dict[int, float] = {}
        for entry in self._desk.entries.values():
            if entry.agent is not None:
                held[entry.agent] = held.get(entry.agent, 0.0) + entry.cost
        for agent, text in self._desk.notes.items():
            note = json.loads(text) if text else {}
            if note.get("steps"):
                done += held.get(agent, 0.0) * note["step"] / note["steps"]
        return done
