"""A `pack` that is killed, wherever it is, holds no job for ever; what it did not finish is not away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from db.home import Home
from db.registry import Registry
from db.states import AgentState, State
from orchestrator.deaths import bury_dead
from orchestrator.importing import bring_home
from orchestrator.packing import pack
from orchestrator.selection import read_selection
from sweeps.errors import InputError
from tests.conftest import QSWEEP, environment
from tests.orchestrator import parcels


def killed_at(point: str, listener: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Kill the process at this point, and let it pass the others."""
    while True:
        line, _ = listener.accept()
        with line:
            pid, name, _ = line.recv(4096).decode().split("\t")
            if name == point:
                os.kill(int(pid), signal.SIGKILL)
                process.wait()
                return
            line.sendall(b"on")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["pack.claimed", "pack.written", "pack.renamed"])
def test_a_pack_that_is_killed_gives_its_jobs_back(home: Path, tmp_path: Path, point: str) -> None:
    (tmp_path / "four.toml").write_text(parcels.SWEEP)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        process = subprocess.Popen(
            [*QSWEEP, "pack", "four.toml", "--out", "far"],
            env=environment(home, {"QSWEEP_FAULTS": str(tmp_path / "s")}),
            cwd=tmp_path,
        )
        watch = threading.Thread(target=killed_at, args=(point, listener, process), daemon=True)
        watch.start()
        watch.join(120)
        assert process.poll() == -signal.SIGKILL
    place = Home.at(home)
    with Registry.open(place.registry) as registry:
        sweep = registry.sweeps()[0].id
        counts = registry.counts(sweep)
        assert (counts.running, counts.away) == (4, 0)
        assert registry.remaining().running  # so no launch takes the sweep for done
        assert registry.bundles() == []
        bury_dead(registry)  # as every launch on this machine does; elsewhere the lease runs out
        assert registry.counts(sweep).queued == 4
        assert registry.agents(AgentState.AWAY) == []
    assert (tmp_path / "far").exists() == (point == "pack.renamed")
    if point == "pack.renamed":  # it was never handed out: nothing of it counts
        with pytest.raises(InputError, match="ended before it was ready"):
            bring_home(place, tmp_path / "far")
    with Registry.open(place.registry) as registry:
        assert {row.state for row in registry.jobs(sweep)} == {State.QUEUED}
    other = tmp_path / f".other.{'0' * 32}"
    other.mkdir()  # of another registry: its pack may be at work
    left = [path for path in tmp_path.glob(".far.*") if path != other]
    assert bool(left) == (point == "pack.written")
    pack(place, read_selection(str(tmp_path / "four.toml")), tmp_path / "next.zip", with_data=False, code=None)
    assert [path.name for path in tmp_path.glob(".*")] == [other.name]
