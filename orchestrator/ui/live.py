"""One follower for all who look: it asks whether anything has changed, and tells everyone at once.

While nobody looks, nothing is asked. What is computed for one viewer is kept for the others until something changes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from qsweep.orchestrator.board import LONGEST, SHARE
from qsweep.sweeps.errors import QsweepError

PAUSE = 1.0
"""Seconds between two looks; more where a look takes long, as `status --watch` has it."""
QUIET = 15.0
"""Seconds after which a line is sent to those who wait, so that one who has vanished is noticed."""
KEPT = 64
"""Most answers that are kept."""
RARELY = 10
"""An answer is not made again before so many times the seconds that it took …"""
LONGEST_REST = 60.0
"""… but after these seconds at the latest."""


@dataclass(frozen=True)
class Kept:
    """An answer, the number of its moment, when it was ready and how long it took, in seconds."""

    number: int
    content: bytes
    at: float
    took: float


@dataclass(frozen=True)
class Moment:
    """What the follower has seen: `number` grows whenever something has changed; `away` says why nothing is seen."""

    number: int = 0
    away: str = ""

    def line(self) -> str:
        return f"data: {json.dumps({'number': self.number, 'away': self.away})}\n\n"


class Live:
    """Follows by asking `pulse`, which gives another value whenever something has changed. Lives on one event loop."""

    def __init__(self, pulse: Callable[[], Awaitable[Hashable]]) -> None:
        self._pulse = pulse
        self.now = Moment()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.viewers = 0
        self._last: Hashable = None
        self._kept: dict[Hashable, Kept] = {}
        self._locks: dict[Hashable, asyncio.Lock] = {}

    async def moments(self) -> AsyncIterator[str]:
        """What one viewer is sent: the moment as it is, and every later one, as server-sent events."""
        self.viewers += 1
        if not self.followed:
            self._task = asyncio.create_task(self._follow())
        try:
            seen = self.now
            yield f"retry: 1000\n{seen.line()}"
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(QUIET), self._changed:
                        await self._changed.wait_for(partial(self._is_other, seen))
                now = self.now  # it may be another one by the time that this was sent
                yield ": still here\n\n" if now == seen else now.line()
                seen = now
        finally:
            self.viewers -= 1

    def _is_other(self, seen: Moment) -> bool:
        return self.now != seen

    async def _follow(self) -> None:
        while self.viewers:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(PAUSE, min(SHARE * (time.monotonic() - began), LONGEST)))

    async def look(self) -> Moment:
        """Ask now whether anything has changed."""
        try:
            found, away = await self._pulse(), ""
        except (QsweepError, OSError) as error:
            found, away = self._last, str(error)
        if (found, away) != (self._last, self.now.away):
            self._last = found
            self.now = Moment(self.now.number + 1, away)
            async with self._changed:
                self._changed.notify_all()
        return self.now

    async def kept(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> tuple[int, bytes]:
        """What `make` answers, and the number of the moment that it is of: made once for all who ask, and anew once
        something has changed, but so rarely that making it takes no more than a share of the time."""
        if not self.followed:
            await self.look()
        if len(self._locks) > 4 * KEPT:
            self._locks = {one: lock for one, lock in self._locks.items() if lock.locked()}
        async with self._locks.setdefault(key, asyncio.Lock()):
            if (known := self._kept.get(key)) is not None and self._holds(known):
                return known.number, known.content
            number, began = self.now.number, time.monotonic()
            content = await make()
            self._kept.pop(key, None)
            self._kept[key] = Kept(number, content, time.monotonic(), time.monotonic() - began)
            while len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
            return number, content

    def _holds(self, known: Kept) -> bool:
        resting = time.monotonic() - known.at < min(RARELY * known.took, LONGEST_REST)
        return resting or (known.number == self.now.number and not self.now.away)

    @property
    def followed(self) -> bool:
        """Whether anybody looks, so that it is asked again and again."""
        return self._task is not None and not self._task.done()
