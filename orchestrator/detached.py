"""Keepers on this machine: processes of their own that watch over detached sweeps (`orchestrator.keeper`)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.clock import machine_id, process_started
from qsweep.db.home import Home
from qsweep.orchestrator.backends.base import Fleet
from qsweep.orchestrator.dead_agents import is_alive
from qsweep.orchestrator.starts import Start, record
from qsweep.orchestrator.supervisor import scope_options
from qsweep.sweeps import processes

BACKEND = "local"


@dataclass(frozen=True, kw_only=True)
class Process:
    """A keeper, as a record of `starts/` names it."""

    host: str
    boot: str
    pid: int
    started: float

    @classmethod
    def of(cls, start: Start) -> Process:
        host, _, rest = start.reference.partition(" ")
        boot, pid, started = rest.rsplit(" ", 2)  # a machine's identity may hold a blank
        return cls(host=host, boot=boot, pid=int(pid), started=float(started))

    def reference(self) -> str:
        return f"{self.host} {self.boot} {self.pid} {self.started}"

    @property
    def lives(self) -> bool:
        """Whether it runs on this machine now."""
        return (self.host, self.boot) == (socket.gethostname(), machine_id()) and is_alive(self.pid, self.started)


def living(starts: Sequence[Start]) -> list[tuple[Start, Process]]:
    """Those of these starts whose keeper runs on this machine now."""
    return [(start, one) for start in starts if start.backend == BACKEND and (one := Process.of(start)).lives]


def start_keeper(fleet: Fleet) -> Process:
    """Start a process that keeps this fleet at work here, and record it in the home."""
    home = fleet.home
    log = log_of(home, fleet)
    log.parent.mkdir(parents=True, exist_ok=True)
    assert fleet.scope.sweep is not None
    command = [*processes.PYTHON, "qsweep.orchestrator.keeper", "--home", str(home.root), "--data", str(home.data)]
    command += ["--workers", str(fleet.workers), "--gpus", str(fleet.gpus), "--lease", str(fleet.lease)]
    command += ["--code", fleet.code, *scope_options(fleet.scope)]
    command += [] if fleet.time_limit is None else ["--time-limit", str(fleet.time_limit)]
    with log.open("ab") as output:
        process = processes.start(
            command,
            env=dict(os.environ) | {"QSWEEP_REGISTRY": home.registry, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    keeper = Process(
        host=socket.gethostname(), boot=machine_id(), pid=process.pid, started=process_started(process.pid)
    )
    record(
        home,
        Start(
            backend=BACKEND,
            sweep=fleet.scope.sweep,
            reference=keeper.reference(),
            agents=fleet.workers,
            selection=fleet.scope.selection,
        ),
    )
    return keeper


def log_of(home: Home, fleet: Fleet) -> Path:
    """Where the keeper of this fleet says what it does."""
    return home.logs / "keepers" / f"{fleet.title or fleet.scope.sweep}.log"
