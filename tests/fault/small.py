"""A sweep of one cohort, run by the command line, for faults that need no seed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow
from qsweep.orchestrator.detached import living
from qsweep.orchestrator.starts import recorded
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, environment, wait_until_training

SWEEP = """
title = "Small"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
width = 2
depth = 2
weight_decay = 0.0
optimizer = "sgd"
batch_size = 64
epochs = {epochs}
[axes]
bits = [32, 4]
learning_rate = [0.02, 0.01]
seed = {seeds}
"""


class Small:
    """A home with this sweep, and its `qsweep`."""

    def __init__(
        self, folder: Path, *, epochs: int = 20, seeds: int = 1, home: Path | None = None, **extra: str
    ) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.environment = environment(self.home, {"QSWEEP_CHECKPOINT_STEPS": "20", **extra})
        (folder / "small.toml").write_text(SWEEP.format(epochs=epochs, seeds=list(range(seeds))))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return processes.start(
            [*QSWEEP, *arguments], env=self.environment, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def status(self) -> dict[str, Any]:
        answer = self.run("status", "--json")
        return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {"sweeps": [], "agents": []}

    def counts(self) -> dict[str, Any]:
        (row,) = self.status()["sweeps"]
        return dict(row)

    def agents(self, least: int) -> list[AgentRow]:
        """The agents alive, as soon as there are so many and one of them trains."""
        wait_until_training(self.home, 1)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            with Registry.open(self.home / "registry.db") as registry:
                found = registry.catalogue.agents()
            if len(found) >= least:
                return found
            time.sleep(0.1)
        raise AssertionError(f"after ten minutes only {found}")


def keepers(home: Path) -> list[int]:
    """The processes that keep a detached launch of this home at work."""
    with Registry.open(home / "registry.db") as registry:
        starts = [one for sweep in registry.catalogue.sweeps() for one in recorded(Home.at(home), sweep.id)]
    return [process.pid for _, process in living(starts)]


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def supervisor_of(agent: int) -> int:
    return int(psutil.Process(agent).ppid())
