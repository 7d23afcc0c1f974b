"""The Postgres that they share, what it takes, and what it is asked beside its registry."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from benchmarks.fleet.agents import SWEEP
from qsweep.db.registry import Registry
from qsweep.orchestrator import serving


@contextmanager
def server() -> Iterator[serving.Server]:
    """A Postgres as `qsweep db serve` starts it."""
    import socket

    folder = Path(tempfile.mkdtemp(prefix="qsweep-fleet-"))
    folder.chmod(0o711)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    one = serving.Server(folder=folder / "pg", passwords=folder / "postgres.pgpass", host=serving.LOCAL, port=port)
    serving.start(one)
    try:
        yield one
    finally:
        if serving.is_running(one):
            serving.stop(one)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def server_processes(one: serving.Server) -> list[psutil.Process]:
    try:
        main = psutil.Process(int((one.data / "postmaster.pid").read_text().split()[0]))
        return [main, *main.children()]
    except (psutil.Error, OSError, ValueError):
        return []


class ServerTime:
    """The processor time of all processes of the server, those that have ended since the last look nearly included."""

    def __init__(self, one: serving.Server) -> None:
        self._server = one
        self._known: dict[tuple[int, float], float] = {}
        self.memory = 0.0

    def look(self) -> float:
        """Seconds so far."""
        memory = 0.0
        for process in server_processes(self._server):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._known[process.pid, process.create_time()] = times.user + times.system
                memory += process.memory_info().rss - process.memory_info().shared
        self.memory = max(self.memory, memory / 1e6)
        return sum(self._known.values())


def connection(url: str) -> Any:
    import psycopg

    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def counts(url: str) -> tuple[int, int, int]:
    with connection(url) as opened:
        rows = dict(opened.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    return rows.get("done", 0), rows.get("running", 0), rows.get("queued", 0) + rows.get("running", 0)


def end_early(url: str) -> None:
    with Registry.open(url) as registry:
        registry.sweeps.pause(registry.catalogue.find_sweep(SWEEP).id, "the time is over")
