"""Beside a healthy agent one has too little memory: it costs no job, stops, and is named."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qsweep.db.registry import Registry
from qsweep.db.states import AgentState
from tests.fault.small import Small, keepers
from tests.listener import ON, Listener
from tests.postgres import missing_postgres, running_server

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SWEEP = """
title = "Weak"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 8
width = 4
depth = 2
weight_decay = 0.0
optimizer = "sgd"
batch_size = 512
bits = 32
[axes]
epochs = [3, 4, 5, 6]
learning_rate = [0.02, 0.01]
seed = [0, 1]
"""
ROOM = 2**20
"""Bytes that a weak agent gets beyond what it has when it gets its first jobs."""


def starve(agent: int) -> None:
    """Leave a process next to nothing beyond the memory that it has."""
    room = psutil.Process(agent).memory_info().vms + ROOM
    psutil.Process(agent).rlimit(psutil.RLIMIT_AS, (room, room))


class Weakness:
    """Weakens every agent as it gets its first jobs, but so many as are spared."""

    def __init__(self, socket: Path, weaken: Callable[[int], None], *, spared: int = 1) -> None:
        self.weak: list[int] = []
        self._healthy: list[int] = []
        self._spared, self._weaken, self._lock = spared, weaken, threading.Lock()
        self._listener = Listener(socket, self._hear)

    def _hear(self, pid: int, name: str, _: str) -> bytes:
        with self._lock:
            if name == "claimed" and pid not in (*self._healthy, *self.weak):
                (self._healthy if len(self._healthy) < self._spared else self.weak).append(pid)
                if pid in self.weak:
                    self._weaken(pid)
        return ON

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What names the registry in the environment."""
    if request.param == "sqlite":
        yield {}
        return
    missing_postgres()
    with running_server() as server:
        yield {"QSWEEP_REGISTRY": server.url}


def sweep_of(folder: Path, surroundings: dict[str, str]) -> Small:
    small = Small(folder, QSWEEP_FAULTS=str(folder / "faults"), **surroundings)
    (folder / "small.toml").write_text(SWEEP)
    return small


def test_a_weak_agent_beside_a_healthy_one_costs_no_job_stops_and_is_named(
    tmp_path: Path, database: dict[str, str]
) -> None:
    small, weakness = sweep_of(tmp_path, database), Weakness(tmp_path / "faults", starve)
    try:
        answer = small.run("launch", "small.toml", "--workers", "2")
    finally:
        weakness.close()
    assert answer.returncode == 0, answer.stderr
    assert small.counts()["done"] == 16
    with Registry.open(database.get("QSWEEP_REGISTRY", small.home / "registry.db")) as registry:
        (weak,) = registry.catalogue.agents(AgentState.STOPPED)
        others = registry.catalogue.agents(AgentState.RETIRED)
    assert weak.pid in weakness.weak
    assert len(others) == 1  # nobody was started in its place
    words = f"agent {weak.id} on {weak.host} stopped: {weak.reason}"
    assert re.fullmatch(r"its last \d+ tries all failed \(.*out of memory\), while others succeed", weak.reason)
    assert words in answer.stderr
    assert words in small.run("status").stdout
    (named,) = small.status()["stopped"]
    assert (named["agent"], named["reason"]) == (weak.id, weak.reason)
    watched = json.loads(small.run("status", "--watch", "--json").stdout.splitlines()[-1])
    assert watched["stopped"] == [named]


def test_agents_that_are_killed_for_their_jobs_are_not_started_again_for_ever_where_another_succeeds(
    tmp_path: Path,
) -> None:
    small = sweep_of(tmp_path, {})
    weakness = Weakness(tmp_path / "faults", lambda agent: os.kill(agent, signal.SIGKILL))
    try:
        answer = small.run("launch", "small.toml", "--workers", "2", "--detach")
        assert answer.returncode == 0, answer.stderr
        psutil.wait_procs([psutil.Process(one) for one in keepers(small.home)], timeout=300)
    finally:
        weakness.close()
    assert small.counts()["done"] == 16
    with Registry.open(small.home / "registry.db") as registry:
        (weak,) = registry.catalogue.agents(AgentState.STOPPED)
        dead = registry.catalogue.agents(AgentState.DEAD)
    assert {one.pid for one in (*dead, weak)} == set(weakness.weak)
    assert {one.place for one in dead} == {weak.place}
    assert len(dead) < 16
    assert f"agent {weak.id} on {weak.host} stopped: its last " in small.run("status").stdout


def test_who_is_weak_and_alone_fails_its_jobs_and_the_launch_ends(tmp_path: Path) -> None:
    small, weakness = sweep_of(tmp_path, {}), Weakness(tmp_path / "faults", starve, spared=0)
    try:
        answer = small.run("launch", "small.toml", "--workers", "1", "--limit", "2")
    finally:
        weakness.close()
    assert answer.returncode == 1
    assert "2 jobs failed" in answer.stderr
    assert small.counts()["failed"] == 2
    assert small.status()["stopped"] == []
