"""When agents that are missing are started again, and when that is given up: by a launcher, and in a single place.

Everything here is counting: no process is looked at, and the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.agent.exits import Exit

MOST_FAILED_STARTS = 3
"""Failed starts in a row after which the launch gives up, if nobody does anything."""
FIRST = 0.5
"""Seconds before an agent is started again after the first failed start; each further one doubles them."""
MOST = 600.0
"""The longest of these pauses: a broken node is tried six times an hour."""
HEALTHY_AFTER = 60.0
"""Seconds that an agent lives if the place it works in is sound."""
FIRST_AWAY, MOST_AWAY = 5.0, 60.0
"""The same pauses where the registry is away."""


def pause_after(times: int, *, first: float = FIRST, most: float = MOST) -> float:
    """Seconds to wait after something went wrong that many times in a row, at least once."""
    return float(min(first * 2.0 ** min(times - 1, 60), most))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a launcher sees of its fleet. `now` is seconds on a clock that only goes forward."""

    now: float
    wanted: int
    """How many agents there should be. Those by which it falls were taken away on purpose."""
    alive: int
    """How many agents of this launch run or wait to run."""
    others: int = 0
    """How many work beside them that others started."""
    events: int = 0
    """How many changes of the sweep's jobs there were since the look before."""
    agents_with_jobs: int = 0
    """How many agents had their first job since the look before."""


class Upkeep:
    """How many agents a launcher starts, and when; one for all backends.

    1. An agent that did something (it had a job) is replaced at once: what it died of is its jobs' matter, whose
       failures have budgets of their own.
    2. An agent that ended without ever having had a job is a *failed start*. Replacing those waits 0.5 s, after the
       next one 1 s, then 2 s, … up to ten minutes, until one that was started gets a job. So a node that breaks every
       agent costs little, and the agents elsewhere are kept up meanwhile.
    3. Nothing is given up while an agent is left or any job moves. Otherwise the fourth failed start in a row is
       the last one.
    4. Where an agent stopped because it only failed while others succeed, none is started again: that many fewer are
       wanted.
    5. A start that the cluster refuses does not count as a failed start: it is tried again, after the same pauses.

    Nobody knows which agent it was that ended, or had its first job. Of those that may be meant, it is taken for one
    that never had a job: a mistake costs a pause that the next job of a new agent ends.
    """

    def __init__(self) -> None:
        self._alive = 0
        self._wanted: int | None = None
        self._fresh = 0
        self._any = self._started = False
        self._failed_starts = 0
        self._idle_failures = 0
        self._owed = 0
        self._not_before = 0.0
        self._refusals = 0
        self._refused_until = 0.0

    @property
    def has_started(self) -> bool:
        """Whether any agent was started yet."""
        return self._any

    def due(self, look: Look) -> int:
        """How many agents to start now."""
        self._take_in(look)
        missing = look.wanted - look.alive - look.others
        if missing <= 0:
            self._owed = 0
        if missing <= 0 or look.now < self._refused_until:
            return 0
        return missing if look.now >= self._not_before else max(missing - self._owed, 0)

    def is_hopeless(self, look: Look) -> bool:
        """Whether starting more agents would lead nowhere."""
        return self._idle_failures > MOST_FAILED_STARTS and look.alive + look.others == 0

    def started(self, count: int, now: float) -> None:
        """So many were started."""
        self._alive += count
        self._fresh += count
        if count:
            self._any = self._started = True
            self._refusals = 0
        if now >= self._not_before:
            self._owed = 0

    def refused(self, now: float) -> None:
        """The cluster accepts no more agents at the moment."""
        self._refusals += 1
        self._refused_until = now + pause_after(self._refusals)

    def _take_in(self, look: Look) -> None:
        if self._wanted is None:  # those of an earlier launch: nothing is known against them
            self._alive, self._wanted = look.alive, look.wanted
        if look.events:
            self._idle_failures = 0
        if first_jobs := min(look.agents_with_jobs, self._fresh):
            self._fresh -= first_jobs
            self._failed_starts, self._owed, self._not_before = 0, 0, look.now
        taken_away = max(self._wanted - look.wanted, 0)
        ended = max(self._alive - look.alive - taken_away, 0)
        failed = min(ended, self._fresh)
        self._fresh = min(self._fresh - failed, look.alive)
        self._alive, self._wanted = look.alive, look.wanted
        if failed:
            self._owed += failed
            self._count_failure(look.now)

    def _count_failure(self, now: float) -> None:
        """Once a start: of many that were started together, the second one says no more than the first."""
        if not self._started:
            return
        self._failed_starts += 1
        self._idle_failures += 1
        self._started = False
        self._not_before = now + pause_after(self._failed_starts)


@dataclass(frozen=True, kw_only=True)
class End:
    """How an agent ended in its place."""

    code: int
    """Its exit code; 1 if it was killed."""
    held: int = 0
    """Jobs that it died with."""
    reported: bool = True
    """Whether the registry could be told of its death."""


class Place:
    """Whether, and when, the next agent is started where one has ended: an element of an array, an actor.

    Like a launcher, with what can be known of a single agent: it did something if it died with jobs in its hands or
    lived for a minute. An agent that could not begin, its home or its device being what they are, is not repeated.
    While the registry is away nothing is held against the agents, and the place is kept.
    """

    def __init__(self) -> None:
        self._failed_starts = 0
        self._away = 0

    def pause(self, end: End, *, lived: float) -> float:
        """Seconds to wait before the next agent is started. Raises QsweepError if none is to be."""
        if end.code == Exit.BAD_INPUT:
            raise InputError("no agent can work here; what it said stands above")
        if end.code == Exit.REGISTRY_GONE or not end.reported:
            self._away += 1
            return pause_after(self._away, first=FIRST_AWAY, most=MOST_AWAY)
        self._away = 0
        if end.held or lived >= HEALTHY_AFTER:
            self._failed_starts = 0
            return 0.0
        self._failed_starts += 1
        if self._failed_starts > MOST_FAILED_STARTS:
            raise QsweepError(
                f"the agent ended {self._failed_starts} times without doing anything, the last time with {end.code}"
            )
        return pause_after(self._failed_starts)
