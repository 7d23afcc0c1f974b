"""A gate on the way of every training, for tests in which something happens to trainings that are at work.

Its socket is the listener of `qsweep.sweeps.faults`. While the gate is held, what trains takes its first steps and then
one step a second: at work, alive and ready to be stopped, as long as the test needs it and however fast the machine is.
"""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FREE = 60
"""Steps that a process may take at any time."""


class Gate:
    """Answers whoever comes to `socket`; open at first."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._open = threading.Event()
        self._open.set()
        steps: Counter[str] = Counter()
        opened = self._open

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                pid, name, _ = self.rfile.readline().decode().split("\t")
                if name == "step":
                    steps[pid] += 1
                    if steps[pid] > FREE:
                        opened.wait(1)
                with suppress(BrokenPipeError):
                    self.wfile.write(b"on")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(str(socket), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

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
        self._server.shutdown()
        self._server.server_close()
