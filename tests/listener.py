"""A listener of `qsweep.sweeps.faults`: what real processes pass in a test, and what becomes of them there."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ON = b"on"
"""The answer at which a process goes on."""


class Listener:
    """Has `hear` answer each process that comes to `socket`: told its number, the name of the point and what it is busy
    with there. It may be asked by several threads at once."""

    def __init__(self, socket: Path, hear: Callable[[int, str, str], bytes]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                pid, name, subject = self.rfile.readline().decode().rstrip("\n").split("\t")
                answer = hear(int(pid), name, subject)
                with suppress(BrokenPipeError):  # it was killed there
                    self.wfile.write(answer)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(str(socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
