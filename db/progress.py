"""How far jobs are: the figures that a launch, `status --watch` and a bundle's runner say, and when to say them."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qsweep.db.rows import Counts
from qsweep.sweeps.words import duration

WINDOW = 600.0
"""Seconds back to which the speed counts."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One look at some jobs. Work is in estimated operations."""

    counts: Counts
    lost: int = 0
    """Of those running, without the agent that held them."""
    blocked: int = 0
    """Of those queued, not able to run as things stand: nobody waits for them."""
    size: int = 0
    """Jobs of the whole sweep, if these are a part of it."""
    work: float
    """Of all jobs."""
    left: float
    """Work that is still to be done."""
    lately: float = 0.0
    """Work that was done within the last `seconds`."""
    seconds: float = 0.0

    @property
    def running(self) -> int:
        """Jobs that somebody works on here: neither lost nor away in a bundle."""
        return self.counts.running - self.lost - self.counts.away

    @property
    def queued(self) -> int:
        """Jobs that wait, and can run as things stand."""
        return self.counts.queued - self.blocked

    @property
    def still_open(self) -> int:
        """Jobs to wait for here."""
        return self.running + self.lost + self.queued

    @property
    def share(self) -> float:
        """How much of the work is done."""
        return 1 - self.left / self.work if self.work else 0.0

    @property
    def rate(self) -> float:
        """Jobs done a minute; those that run count by the part of them that is done."""
        per_job = self.work / max(self.counts.total, 1)
        return 60 * self.lately / self.seconds / per_job if self.seconds and per_job else 0.0

    @property
    def seconds_left(self) -> float | None:
        """From the work done lately and that which is left; None where nothing tells."""
        if not self.still_open:
            return 0.0
        return self.left / self.lately * self.seconds if self.left and self.lately > 0 else None

    def line(self) -> str:
        """All of it in one line."""
        counts = self.counts
        parts = [
            f"{counts.done}/{counts.total} done" + (f" ({counts.diverged} diverged)" if counts.diverged else ""),
            f"{self.running} running",
            f"{self.queued} queued",
            f"{counts.failed} failed",
            *([f"{self.lost} lost"] if self.lost else []),
            *([f"{self.blocked} blocked"] if self.blocked else []),
            *([f"{counts.away} checked out to bundles"] if counts.away else []),
        ]
        part = f" (of {self.size} in the sweep)" if self.size > counts.total else ""
        return f"{', '.join(parts)}{part} · {self.rate_text()} · {self.time_left()}"

    def rate_text(self) -> str:
        """The throughput: with one decimal where it is small."""
        return f"{self.rate:.0f} jobs/min" if self.rate >= 10 else f"{self.rate:.1f} jobs/min"

    def time_left(self) -> str:
        """What is known of the time left: never 0 s while a job is open."""
        if not self.still_open:
            return "nothing left to do here" if self.blocked or self.counts.away else "complete"
        if self.seconds_left is None:
            return "time left: unknown"
        return f"time left: about {duration(max(self.seconds_left, 1.0))}"


class Speed:
    """How much work was done over the last WINDOW seconds, of what was looked at.

    A cohort that ended between two looks, and whose results are still to come, takes nothing back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, done: float) -> None:
        """Remember how much work is done now."""
        now = self._clock()
        self._looks.append((now, max(done, self.done)))
        while now - self._looks[0][0] > WINDOW and len(self._looks) > 2:
            self._looks.popleft()

    def restart(self) -> None:
        """What was done so far tells nothing of what follows."""
        self._looks.clear()

    @property
    def done(self) -> float:
        """Work that was done at the last look."""
        return self._looks[-1][1] if self._looks else 0.0

    def lately(self) -> tuple[float, float]:
        """Work done, and the seconds it took."""
        if not self._looks:
            return 0.0, 0.0
        (then, before), (now, after) = self._looks[0], self._looks[-1]
        return after - before, now - then


def note_of(text: str) -> dict[str, Any]:
    """What an agent says that it does: `cohort`, `jobs`, `step`, `steps`; empty before it says anything."""
    note: dict[str, Any] = json.loads(text) if text else {}
    return note


def partial_work(notes: Iterable[tuple[str, int]], costs: Mapping[str, float]) -> float:
    """Work done by cohorts that still run: from what each agent says, and how many of the jobs in question it holds.

    `costs` is the work of one job of each cohort in question; a note may be older than these.
    """
    found = [(note_of(text), held) for text, held in notes]
    return math.fsum(
        costs[note["cohort"]] * min(note["jobs"], held) * min(note["step"] / max(note["steps"], 1), 1.0)
        for note, held in found
        if note.get("cohort") in costs
    )


class Rhythm:
    """When a plain line of progress is due: at once, for each tenth of the work, and between them ever more rarely."""

    FIRST, LONGEST = 15.0, 600.0
    """Seconds until the second line; each pause is twice the one before, up to the longest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = -math.inf
        self._pause = self.FIRST
        self._tenths = 0

    def is_due(self, share: float) -> bool:
        """Whether to say now that this share of the work is done; then it counts as said."""
        now, tenths = self._clock(), int(10 * share)
        if tenths <= self._tenths and now - self._said < self._pause:
            return False
        if tenths <= self._tenths and self._said > -math.inf:
            self._pause = min(2 * self._pause, self.LONGEST)
        self._said, self._tenths = now, tenths
        return True
