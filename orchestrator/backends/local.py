"""Agents as processes of this machine: one per GPU, or one single-threaded one per core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from db.home import Home
from orchestrator.backends.base import Backend, Fleet
from orchestrator.supervisor import scope_options

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Tells glibc to keep the memory that each step frees and asks for again, instead of returning it page by page."""


def worker_command(fleet: Fleet) -> list[str]:
    """The command line of one agent. The registry's URL goes through the environment: it may hold a password."""
    home = fleet.home
    command = [
        sys.executable,
        "-m",
        "orchestrator.supervisor",
        "--home",
        str(home.root),
        "--data",
        str(home.data),
    ]
    command += ["--lease", str(fleet.lease), "--code", fleet.code]
    command += [] if fleet.time_limit is None else ["--time-limit", str(fleet.time_limit)]
    return command + scope_options(fleet.scope)


def worker_environment(home: Home, *, threads: int, gpu: int | None = None) -> dict[str, str]:
    """The environment of one agent: its registry, its share of the machine, and no module from the current folder."""
    environment = dict(os.environ) | {"QSWEEP_REGISTRY": home.registry, "PYTHONSAFEPATH": "1"}
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = str(threads)
    environment = KEEP_MEMORY | environment
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return environment


class LocalBackend(Backend):
    """Each agent runs in a session of its own, so that Ctrl-C reaches the launcher alone."""

    name = "local"

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, fleet: Fleet) -> None:
        log = fleet.home.logs / "agents"
        log.mkdir(parents=True, exist_ok=True)
        for place in range(fleet.workers):
            running = self._processes.get(place)
            if running is None or running.poll() is not None:
                self._processes[place] = self._launch(fleet, place, log)

    def _launch(self, fleet: Fleet, place: int, log: Path) -> subprocess.Popen[bytes]:
        gpu = place % fleet.gpus if fleet.gpus else None
        with (log / "supervisors.log").open("ab") as output:
            return subprocess.Popen(
                worker_command(fleet),
                env=worker_environment(fleet.home, threads=1, gpu=gpu),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def alive(self) -> int:
        return sum(process.poll() is None for process in self._processes.values())

    def started(self, pid: int) -> bool:
        try:
            parent = psutil.Process(pid).ppid()
        except psutil.NoSuchProcess:
            return True
        return parent in [process.pid for process in self._processes.values()]

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        ended: list[psutil.Process] = []
        for process in self._processes.values():
            if process.poll() is None:
                ended += psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGKILL)
        psutil.wait_procs(ended, timeout=5)  # only then can their jobs be taken back
