"""What an agent uses of its machine, read with its heartbeats."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress

from qsweep.db.rows import Load

MINUTE = 60.0
"""Longest time between two readings, in seconds …"""
SHARE = 0.1
"""… and no less than this share of the time since the first: a young agent is read at every heartbeat, and a week of
work is about ten thousand readings."""


class Gauge:
    """The use of the processors and the memory by this process and all below it, and of the GPU that torch works on.

    Reading costs some milliseconds at most, and nothing is asked of a GPU that torch has not begun to use. `wall` and
    `clock` are those of `time`.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._clock = wall, clock
        self._began = self._read_at = clock()
        self._used: float | None = None
        """Seconds of processors until then; None before the first reading, which only begins to count."""

    def read(self) -> Load | None:
        """What was used since the last reading; None the first time, while the last was too short a time ago, or if it
        can't be seen."""
        now, first = self._clock(), self._used is None
        if not first and (now <= self._read_at or now - self._read_at < min(MINUTE, SHARE * (now - self._began))):
            return None
        import psutil  # here: an agent that lives for less than a heartbeat needs it not

        used, memory, here = 0.0, 0, psutil.Process()
        try:
            for one in (here, *here.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):  # it ended just now: its parent has its time
                    times = one.cpu_times()
                    used += times.user + times.system + times.children_user + times.children_system
                    memory += one.memory_info().rss
        except (psutil.Error, OSError):
            return None
        before, since, self._used, self._read_at = self._used, now - self._read_at, used, now
        if before is None:
            return None
        gpu, held = _gpu()
        processor = max(0.0, used - before) / since
        return Load(at=self._wall(), processor=processor, memory=memory, gpu=gpu, gpu_memory=held)


def _gpu() -> tuple[float | None, int | None]:
    """The share of the last moments in which the GPU had work, and the bytes that torch holds there."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, None
    try:
        busy = torch.cuda.utilization() / 100
    except Exception:  # without NVIDIA's library, or its right, there is no such figure
        busy = None
    return busy, int(torch.cuda.memory_reserved())
