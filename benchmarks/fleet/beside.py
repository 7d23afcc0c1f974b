"""What runs beside the agents: a launcher whose agents are elsewhere, and watchers, each on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks import surroundings
from benchmarks.fleet.agents import SWEEP
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow, Scope
from qsweep.orchestrator.backends.base import Backend, Fleet, Site
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.watch import Watch
from qsweep.sweeps.errors import QsweepError


class Elsewhere(Backend):
    """Agents that others start and watch."""

    name = "elsewhere"

    def __init__(self, agents: int) -> None:
        self._agents = agents

    def survey(self, machine: Machine, workers: int | None) -> Site:
        return Site(hosts=frozenset(), agents=self._agents)

    def adopt(self, fleet: Fleet) -> None:
        return

    def start(self, count: int) -> None:
        return

    def alive(self) -> int:
        return self._agents

    def others(self, agents: Sequence[AgentRow]) -> int:
        return 0

    def stop(self, *, by_user: bool = False) -> None:
        return

    def kill(self) -> None:
        return


def launcher(folder: Path, url: str, agents: int) -> None:
    """A launcher's watch over the sweep, as `qsweep launch` runs it."""
    home = Home.at(folder, registry=url)
    with Registry.open(url) as registry:
        sweep = registry.catalogue.find_sweep(SWEEP)
        fleet = Fleet(
            home=home, workers=agents, gpus=0, lease=30, scope=Scope(sweep=sweep.id), title=sweep.title, code=""
        )
        with suppress(QsweepError):
            Watch(home, registry, sweep, Elsewhere(agents), fleet, Console()).run()


class Watched:
    """A process on a terminal of its own, whose processor time is read from the kernel."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        ours, theirs = pty.openpty()
        environment = surroundings() | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        threading.Thread(target=self._drain, args=(ours,), daemon=True).start()
        self.began, self.before, self.last = time.time(), 0.0, 0.0

    def _drain(self, terminal: int) -> None:
        with suppress(OSError):
            while os.read(terminal, 65536):
                pass

    def look(self) -> None:
        with suppress(psutil.Error):
            times = psutil.Process(self.process.pid).cpu_times()
            self.last, self.at = times.user + times.system, time.time()

    def mark(self) -> None:
        """What was taken so far was for the start."""
        self.look()
        self.began, self.before = time.time(), self.last

    def share(self) -> float:
        """Of a core, since the mark."""
        return (self.last - self.before) / max(self.at - self.began, 1e-9)

    def memory(self) -> float:
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).memory_info().rss / 1e6
        return 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def beside(folder: Path, url: str, agents: int, watchers: int) -> list[Watched]:
    """A launcher and so many watchers."""
    own = [sys.executable, "-m", "benchmarks.fleet", "--role", "launcher", "--folder", str(folder), "--url", url]
    look = [sys.executable, "-m", "qsweep.orchestrator.cli", "--home", str(folder), "--registry", url]
    return [
        Watched("launcher", [*own, "--agents", str(agents)]),
        *(Watched(f"watcher {number}", [*look, "status", SWEEP, "--watch"]) for number in range(1, watchers + 1)),
    ]
