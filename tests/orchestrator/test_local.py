"""Agents as processes of this machine: how many it takes, and which of them are a launch's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from qsweep.db.clock import machine_id
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow, Scope
from qsweep.orchestrator.backends.local import LocalBackend, serves
from qsweep.orchestrator.machine import Machine
from qsweep.sweeps.errors import InputError
from tests.db.conftest import agent_info


def test_more_agents_than_gpus_are_refused_and_without_gpus_none_are() -> None:
    backend = LocalBackend()
    one_gpu = Machine(cores=16, gpus=1, torch="")
    assert backend.survey(one_gpu, None).agents == 1
    assert backend.survey(one_gpu, 1).agents == 1
    with pytest.raises(InputError, match=r"--workers 4: an agent takes a GPU of its own; allowed: up to 1;"):
        backend.survey(one_gpu, 4)
    assert backend.survey(Machine(cores=2, gpus=0, torch=""), 4).agents == 4


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentRow]:
    """A process with the command line of an agent of selection 7 of sweep 3, enlisted."""
    line = [sys.executable, "-c", "input()", "--home", "/h", "--sweep", "3", "--selection", "7", "--leash"]
    process = subprocess.Popen(line, stdin=subprocess.PIPE)
    with Registry.open(tmp_path_factory.mktemp("home") / "registry.db", create=True) as registry:
        registry.enlist(agent_info(host=socket.gethostname(), boot_id=machine_id(), pid=process.pid))
        yield registry.agents()[0]
    process.communicate(b"\n")


def test_an_agent_serves_its_own_selection_and_no_other_work(agent: AgentRow) -> None:
    assert serves(agent, Scope(sweep=3, selection=7))
    assert not serves(agent, Scope(sweep=3, selection=8))
    assert not serves(agent, Scope(sweep=3))
    assert not serves(agent, Scope(sweep=4, selection=7))
    assert not serves(replace(agent, host="elsewhere"), Scope(sweep=3, selection=7))
    assert not serves(replace(agent, boot_id="another container"), Scope(sweep=3, selection=7))
    assert serves(replace(agent, pid=os.getpid()), Scope(sweep=4))  # no bounds on its command line: it takes all
