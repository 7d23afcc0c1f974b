"""A gate on the way of every training, for tests in which something happens to trainings that are at work.

Its socket is the listener of `qsweep.sweeps.faults`. While the gate is held, what trains takes its first steps and then
one step a second: at work, alive and ready to be stopped, as long as the test needs it and however fast the machine is.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.listener import ON, Listener

FREE = 60
"""Steps that a process may take at any time."""


class Gate:
    """Answers whoever comes to `socket`; open at first."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._open = threading.Event()
        self._open.set()
        self._steps: Counter[int] = Counter()
        self._listener = Listener(socket, self._hear)

    def _hear(self, pid: int, name: str, _: str) -> bytes:
        if name == "step":
            self._steps[pid] += 1
            if self._steps[pid] > FREE:
                self._open.wait(1)
        return ON

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it, trainings go slowly."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def close(self) -> None:
        self._open.set()
        self._listener.close()
