"""A `pack` that is killed, wherever it is, holds no job for ever; what it did not finish is not away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import AgentState, State
from qsweep.orchestrator.dead_agents import mark_dead_agents
from qsweep.orchestrator.importing import import_results
from qsweep.orchestrator.packing import pack
from qsweep.orchestrator.selection import read_selection
from qsweep.sweeps.errors import InputError
from tests.conftest import QSWEEP, Qsweep, environment
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


def held_at(point: str, listener: socket.socket, count: int) -> list[socket.socket]:
    """Those who wait at this point, as soon as so many are there; nobody waits at others."""
    held: list[socket.socket] = []
    while len(held) < count:
        line, _ = listener.accept()
        if line.recv(4096).decode().split("\t")[1] == point:
            held.append(line)
        else:
            line.sendall(b"on")
            line.close()
    return held


@pytest.mark.slow
@pytest.mark.parametrize("name", ["far", "far.zip"])
def test_of_two_packs_to_one_place_one_is_refused_and_gives_its_jobs_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = Home.at(home)
    for number in (1, 2):
        text = parcels.SWEEP.replace("[0.05, 0.1]", f"[0.0{number}]")
        (tmp_path / f"sweep{number}.toml").write_text(text)

    def pack_one(number: int) -> str:
        try:
            selection = read_selection(str(tmp_path / f"sweep{number}.toml"))
            return pack(place, selection, tmp_path / name, with_data=False, code=None).title
        except InputError as error:
            return str(error)

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(2) as threads:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        monkeypatch.setenv("QSWEEP_FAULTS", str(tmp_path / "s"))
        ended = [threads.submit(pack_one, number) for number in (1, 2)]
        held = held_at("pack.written", listener, 2)
        monkeypatch.delenv("QSWEEP_FAULTS")
        for line in held:
            line.sendall(b"on")
            line.close()
        said = sorted(one.result() for one in ended)
    assert said[0].startswith(f"--out {tmp_path / name}: this exists already")
    with Registry.open(place.registry) as registry:
        (bundle,) = registry.catalogue.bundles()
        states = {
            sweep.title: {row.state for row in registry.catalogue.jobs(sweep.id)}
            for sweep in registry.catalogue.sweeps()
        }
    assert states.pop(said[1]) == {State.RUNNING}
    assert list(states.values()) == [{State.QUEUED}]
    assert (tmp_path / name).exists()
    assert bundle.name == name


def test_a_name_that_is_too_long_is_one_message_and_nothing_is_held(home: Path, tmp_path: Path, here: Qsweep) -> None:
    (tmp_path / "four.toml").write_text(parcels.SWEEP)
    with pytest.raises(InputError, match="this name is too long"):
        pack(
            Home.at(home),
            read_selection(str(tmp_path / "four.toml")),
            tmp_path / ("x" * 240),
            with_data=False,
            code=None,
        )
    assert not (home / "registry.db").exists()
    for arguments in (["plan", "x" * 5000 + ".toml"], ["tables", "--from", "x" * 300], ["status", "--home", "x" * 300]):
        said = here(*arguments)
        assert said.returncode == 2
        assert "Traceback" not in said.stderr
        assert "qsweep: " in said.stderr


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
        watch.join(600)
        assert process.poll() == -signal.SIGKILL
    place = Home.at(home)
    with Registry.open(place.registry) as registry:
        sweep = registry.catalogue.sweeps()[0].id
        counts = registry.catalogue.counts(sweep)
        assert (counts.running, counts.away) == (4, 0)
        assert registry.queue.remaining().running  # so no launch takes the sweep for done
        assert registry.catalogue.bundles() == []
        mark_dead_agents(registry)  # as every launch on this machine does; elsewhere the lease runs out
        assert registry.catalogue.counts(sweep).queued == 4
        assert registry.catalogue.agents(AgentState.AWAY) == []
    assert (tmp_path / "far").exists() == (point == "pack.renamed")
    if point == "pack.renamed":  # it was never handed out: nothing of it counts
        with pytest.raises(InputError, match="ended before it was ready"):
            import_results(place, tmp_path / "far")
    with Registry.open(place.registry) as registry:
        assert {row.state for row in registry.catalogue.jobs(sweep)} == {State.QUEUED}
    other = tmp_path / f".other.{'0' * 32}"
    other.mkdir()  # of another registry: its pack may be at work
    left = [path for path in tmp_path.glob(".far.*") if path != other]
    assert bool(left) == (point == "pack.written")
    pack(place, read_selection(str(tmp_path / "four.toml")), tmp_path / "next.zip", with_data=False, code=None)
    assert [path.name for path in tmp_path.glob(".*")] == [other.name]
