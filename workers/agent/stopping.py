"""The request to stop, as signals bring it."""

from __future__ import annotations

import signal
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
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
    """Have SIGTERM and SIGUSR1 ask this process to stop, from now on. A signal that a supervisor has kept blocked until
    now is heard now."""
    request = StopRequest()
    for number in SIGNALS:
        signal.signal(number, lambda *_: request.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGINT))
    return request
