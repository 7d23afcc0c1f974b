"""What the tests of the orchestrator share: one real Ray for all of them, on which no test leaves anything behind."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, environment
from tests.orchestrator.ray_cluster import RayCluster, two_nodes

if TYPE_CHECKING:
    from tests.reports.made import Made

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """A Ray of two nodes on this machine."""
    with two_nodes() as found:
        yield found


@pytest.fixture
def tidy(home: Path) -> Iterator[None]:
    """Agents that still work at the end of a test that failed find nothing left to do, and leave."""
    yield
    registry = Registry.open_if_present(home / "registry.db")
    if registry is None:
        return
    with registry:
        if not registry.agents():
            return
        for sweep in registry.sweeps():
            registry.cancel(sweep.id)
        deadline = time.monotonic() + 60
        while (agents := registry.agents()) and time.monotonic() < deadline:
            time.sleep(0.5)
        for agent in agents:
            if psutil.pid_exists(agent.pid):
                psutil.Process(agent.pid).kill()


@pytest.fixture
def begin(home: Path, folder: Path, tidy: None) -> Iterator[Begin]:
    """Start `qsweep` in the test's `folder` and let it run; at the end of the test it does no more."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = processes.start(
            [*QSWEEP, *arguments],
            cwd=folder,
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A sweep of 24 made-up trainings, done. For copies alone: see `made`."""
    from tests.reports.made import launch, work

    return work(launch(Home.at(tmp_path_factory.mktemp("made") / "home")))


@pytest.fixture
def made(made_once: Made, home: Path) -> Made:
    """The same in the test's own home."""
    return copied(made_once, home)


def copied(made: Made, home: Path) -> Made:
    """A sweep of made-up results, with its file beside its home, in another home."""
    shutil.copytree(made.home.root, home)
    for file in made.home.root.parent.glob("*.toml"):
        shutil.copy(file, home.parent)
    return replace(made, home=Home.at(home))
