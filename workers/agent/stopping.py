"""The request to stop, as signals bring it."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GLANCE = 0.05
"""Seconds between two looks of one who waits."""


class StopRequest(threading.Event):
    """An event that takes no lock.

    A cluster sends the same signal more than once: to the process, and through each of its parents. A handler that
    interrupts itself, or the wait of the same thread, would wait for ever for the lock of an ordinary event.
    """

    def __init__(self) -> None:
        super().__init__()
        self._requested = False
        self.by_user = False
        """Whether it was a user who asked, by Ctrl-C."""

    def set(self) -> None:
        self._requested = True

    def is_set(self) -> bool:
        return self._requested

    def clear(self) -> None:
        self._requested = False

    def wait(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._requested and (deadline is None or time.monotonic() < deadline):
            time.sleep(GLANCE if deadline is None else max(min(GLANCE, deadline - time.monotonic()), 0.0))
        return self._requested


def listen() -> StopRequest:
    """Have these signals ask this process to stop, from now on. One that a supervisor has kept blocked until now is
    heard now."""
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        request.by_user = request.by_user or number == signal.SIGINT
        request.set()

    for number in SIGNALS:
        signal.signal(number, ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return request
