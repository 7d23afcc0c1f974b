"""Agents as processes of this machine: one per GPU, or one single-threaded one per core."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from qsweep.db.home import Home
from qsweep.db.looking import BUNDLE
from qsweep.db.rows import AgentRow, Scope
from qsweep.orchestrator.backends.base import Backend, Fleet, Site
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.dead_agents import is_seen_from_here
from qsweep.orchestrator.detached import living, start_keeper
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.starts import Start, recorded
from qsweep.orchestrator.supervisor import scope_options
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.workers.agent.exits import Exit
from qsweep.workers.environment import AGENTS, PLACE


def worker_command(fleet: Fleet) -> list[str]:
    """The command line of one agent. The registry's URL goes through the environment: it may hold a password."""
    home = fleet.home
    command = [
        *processes.PYTHON,
        "qsweep.orchestrator.supervisor",
        "--home",
        str(home.root),
        "--data",
        str(home.data),
    ]
    command += ["--lease", str(fleet.lease), "--code", fleet.code]
    command += [] if fleet.time_limit is None else ["--time-limit", str(fleet.time_limit)]
    return command + scope_options(fleet.scope)


def serves(agent: AgentRow, scope: Scope) -> bool:
    """Whether this agent is one of this machine that claims every job of the scope, by its command line."""
    if not is_seen_from_here(agent):
        return False
    try:
        words = psutil.Process(agent.pid).cmdline()
    except psutil.Error:
        return False
    given = dict(itertools.pairwise(words))
    bounds = (("--sweep", scope.sweep), ("--selection", scope.selection))
    return all(given.get(option) in (None, str(number)) for option, number in bounds)


@contextlib.contextmanager
def _core_of(place: int, fleet: Fleet) -> Iterator[None]:
    """What is started meanwhile, a supervisor and so its agents, has a core of its own, if there is one for each.

    With fewer agents than cores the system places them better: a second launch would take the same cores.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if fleet.gpus or fleet.workers != len(cores):
        yield
        return
    os.sched_setaffinity(0, {cores[place]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _agents(count: int) -> str:
    return "1 agent" if count == 1 else f"{count} agents"


class LocalBackend(Backend):
    """Each agent runs in a session of its own, so that Ctrl-C reaches the launcher alone."""

    name = "local"
    independent = False

    def __init__(self, *, beside: bool = False) -> None:
        """With `beside`, agents that work for other jobs don't count: it starts its own beside them."""
        self._beside = beside
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._fleet: Fleet | None = None

    def survey(self, machine: Machine, workers: int | None) -> Site:
        if machine.gpus and workers is not None and workers > machine.gpus:
            raise InputError(
                "an agent takes a GPU of its own",
                place=f"--workers {workers}",
                allowed=f"allowed: up to {machine.gpus}; agents that share one: --backend ray --gpus-per-worker 0.5",
            )
        return Site(hosts=frozenset({socket.gethostname()}), agents=workers or machine.agents)

    def adopt(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def start(self, count: int) -> None:
        assert self._fleet is not None
        log = self._fleet.home.logs / "agents"
        log.mkdir(parents=True, exist_ok=True)
        free = [place for place in range(self._fleet.workers) if not (self._runs(place) or self._only_fails(place))]
        for place in free[:count]:
            self._processes[place] = self._launch(self._fleet, place, log)

    def leave(self, count: int) -> str:
        """Agents of this machine end with their launcher or without any: a keeper takes its place."""
        assert self._fleet is not None
        starts = recorded(self._fleet.home, self._fleet.scope.sweep or 0)
        kept = [one for start, one in living(starts) if start.selection == self._fleet.scope.selection]
        keeper = kept[-1] if kept and not count else start_keeper(self._fleet)
        return f"process {keeper.pid} keeps {_agents(self._fleet.workers)} at work here"

    @classmethod
    def describe(cls, home: Home, starts: Sequence[Start]) -> list[str]:
        return [
            f"process {process.pid} keeps {_agents(start.agents)} at work on this machine; its log is in "
            f"{home.logs / 'keepers'}"
            for start, process in living(starts)
        ]

    def _runs(self, place: int) -> bool:
        return place in self._processes and self._processes[place].poll() is None

    def _only_fails(self, place: int) -> bool:
        return place in self._processes and self._processes[place].poll() == Exit.ONLY_FAILED

    def _launch(self, fleet: Fleet, place: int, log: Path) -> subprocess.Popen[bytes]:
        gpu = place if fleet.gpus else None
        with (log / "supervisors.log").open("ab") as output, _core_of(place, fleet):
            return processes.start(
                worker_command(fleet),
                env=worker_environment(fleet.home, threads=1, gpu=gpu)
                | {PLACE: f"{fleet.launch}/{place}", AGENTS: str(fleet.workers)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def alive(self) -> int:
        return sum(process.poll() is None for process in self._processes.values())

    def others(self, agents: Sequence[AgentRow]) -> int:
        """Whatever they work for, unless `beside`: they take the cores or the GPUs that ours would."""
        assert self._fleet is not None
        here = [agent for agent in agents if is_seen_from_here(agent) and agent.backend != BUNDLE]
        here = [agent for agent in here if serves(agent, self._fleet.scope)] if self._beside else here
        return sum(not self._started(agent.pid) for agent in here)

    def _started(self, pid: int) -> bool:
        """Whether this process is one of ours, or is gone already."""
        try:
            parent = psutil.Process(pid).ppid()
        except psutil.NoSuchProcess:
            return True
        return parent in [process.pid for process in self._processes.values()]

    def stop(self, *, by_user: bool = False) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT if by_user else signal.SIGTERM)

    def kill(self) -> None:
        ended: list[psutil.Process] = []
        for process in self._processes.values():
            if process.poll() is None:
                ended += psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGKILL)
        psutil.wait_procs(ended, timeout=5)  # only then can their jobs be taken back
