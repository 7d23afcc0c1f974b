"""Following a sweep by the registry's events: how its jobs stand, at the cost of what has changed since the last look.

What stood at the beginning is counted once, together with the newest event; from then on only newer events are read.
Events are numbered before they are committed, and on Postgres not committed in the order of their numbers: a number
that is not there yet is asked for again, until no transaction can still hold it. What no event tells (jobs that are
registered, a bundle that leaves) is found by counting anew, ever more rarely the longer a count takes.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from qsweep.db.registry import Registry
from qsweep.db.rows import Change, Counts
from qsweep.db.states import AgentState, State

CHANGES = 5_000
"""Most events that are read at once, and most that are remembered."""
OPEN = 120.0
"""Seconds for which a missing number may still belong to an open transaction."""
MOST_GAPS = 200
"""Most stretches of missing numbers that are asked for again."""
RARELY = 500
"""The jobs are counted anew after so many times the seconds that the last count took …"""
SOONEST = 10.0
"""… and after these seconds at the earliest."""


class Cursor:
    """Which of the numbered events have been seen: all up to `newest`, but for `missing` ones."""

    def __init__(self, newest: int, seen: Iterable[int] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """`seen` are the newest numbers in order, down to the oldest that may still be missing."""
        self.newest = newest
        self._clock = clock
        self._gaps: dict[tuple[int, int], float] = {}
        self._note(pairwise(seen))

    def wanted(self) -> list[tuple[int, int | None]]:
        """The stretches of numbers, first and last, that have not been seen; the last one has no end."""
        now = self._clock()
        self._gaps = {gap: since for gap, since in self._gaps.items() if now - since < OPEN}
        return [*sorted(self._gaps)[-MOST_GAPS:], (self.newest + 1, None)]

    def take(self, numbers: Sequence[int]) -> None:
        """These numbers have been seen now, all of them wanted, in order."""
        late, fresh = [one for one in numbers if one <= self.newest], [one for one in numbers if one > self.newest]
        for number in late:
            first, last = next(gap for gap in self._gaps if gap[0] <= number <= gap[1])
            since = self._gaps.pop((first, last))
            for gap in ((first, number - 1), (number + 1, last)):
                if gap[0] <= gap[1]:
                    self._gaps[gap] = since
        self._note(pairwise([self.newest, *fresh]))
        self.newest = fresh[-1] if fresh else self.newest

    def _note(self, pairs: Iterable[tuple[int, int]]) -> None:
        now = self._clock()
        self._gaps |= {(before + 1, after - 1): now for before, after in pairs if after > before + 1}


class Follower:
    """A sweep, or a selection of its jobs, as it stands at the last look."""

    def __init__(
        self,
        registry: Registry,
        sweep_id: int,
        selection: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._sweep_id, self._selection = sweep_id, selection
        self._clock = clock
        self._cursor = Cursor(0)
        self.recent: deque[Change] = deque(registry.history.recent_changes(sweep_id, CHANGES), maxlen=CHANGES)
        """The newest changes, the newest first."""
        self.cohorts: dict[str, float] = {one.cohort_key: one.cost for one in self.recent}
        """The work of one job of each cohort that has been seen at work."""
        self._count()

    @property
    def counts(self) -> Counts:
        """How many jobs stand in each state."""
        away = sum(self.held.get(agent, 0) for agent in self._away)
        return replace(self._inventory.counts, **dict(self._states), diverged=self._diverged, away=away)

    @property
    def work(self) -> Mapping[State, float]:
        """The estimated operations of the jobs in each state."""
        return self._work

    @property
    def held(self) -> Mapping[int, int]:
        """How many of the running jobs each agent holds."""
        return self._held

    def look(self) -> list[Change]:
        """What has changed since the last look, the oldest first."""
        found: list[Change] = []
        while True:
            wanted = self._cursor.wanted()
            numbers, changes = self._registry.history.news(self._sweep_id, self._selection, wanted, CHANGES)
            self._cursor.take(numbers)
            found += changes
            if len(numbers) < CHANGES:
                break
        for change in found:
            self._take(change)
        self._away = {agent.id for agent in self._registry.catalogue.agents(AgentState.AWAY)}
        if self._is_to_count(found):
            self._count()
        return found

    def _take(self, change: Change) -> None:
        self._states[change.source.value] -= 1
        self._states[change.target.value] += 1
        self._work[change.source] -= change.cost
        self._work[change.target] += change.cost
        self._diverged += change.target is State.DONE and change.diverged
        self.recent.appendleft(change)
        self.cohorts[change.cohort_key] = change.cost
        if change.source is State.RUNNING:
            self._let_go(change.job_id)
        if change.target is State.RUNNING and change.agent_id is not None:
            self._holders[change.job_id] = change.agent_id
            self._held[change.agent_id] += 1

    def _let_go(self, job_id: int) -> None:
        holder = self._holders.pop(job_id, None)
        if holder is not None:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def _is_to_count(self, changes: Sequence[Change]) -> bool:
        """Whether events do not tell all: a result was superseded, jobs may have been registered since."""
        return any(one.source is State.DONE for one in changes) or self._clock() >= self._count_at

    def _count(self) -> None:
        began = self._clock()
        found = self._registry.history.inventory(self._sweep_id, self._selection)
        self._inventory = found
        self._states = Counter({state.value: getattr(found.counts, state.value) for state in State})
        self._diverged = found.counts.diverged
        self._work = dict(found.work)
        self._holders = dict(found.holders)
        self._held = Counter(self._holders.values())
        self._away = {agent.id for agent in self._registry.catalogue.agents(AgentState.AWAY)}
        self._cursor = Cursor(found.newest, found.seen, self._clock)
        now = self._clock()
        self._count_at = now + max(RARELY * (now - began), SOONEST)
