"""The launcher tells the living from the dead, leaves a death to the supervisor that saw it, and may fail itself."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from qsweep.db.clock import boot_seconds, machine_id, process_started
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentRow, Finished, Scope, Sweep
from qsweep.db.states import FailureClass
from qsweep.orchestrator import watch as watch_module
from qsweep.orchestrator.backends.base import Backend, Fleet, Site
from qsweep.orchestrator.blockage import blocked_words
from qsweep.orchestrator.dead_agents import GRACE, DeadAgents, is_alive, mark_dead_agents
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.watch import Ended, Watch
from qsweep.sweeps.errors import QsweepError
from tests.db.conftest import agent_info, claim, trained
from tests.db.test_blocking import children


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere psutil's clock is used")
def test_a_process_is_known_by_a_start_time_that_no_change_of_the_date_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    started = process_started(os.getpid())
    assert 0 <= boot_seconds() - started < 86_400
    seeming = psutil.boot_time() + 3600  # as after the wall clock was set an hour forward
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: seeming)
    assert is_alive(os.getpid(), started)
    assert not is_alive(os.getpid(), started + 3600)


def test_the_supervisor_has_time_to_report_a_death() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(child.pid)
    now = 0.0
    deaths = DeadAgents(clock=lambda: now)
    assert not deaths.is_over(child.pid, started)
    child.communicate(b"\n")
    assert not deaths.is_over(child.pid, started)
    now = GRACE
    assert deaths.is_over(child.pid, started)


LOOK = """
import socket, sys
from qsweep.db.clock import machine_id
from qsweep.db.registry import Registry
from qsweep.orchestrator.dead_agents import mark_dead_agents
with Registry.open(sys.argv[1]) as registry:
    mark_dead_agents(registry)
print(machine_id())
"""


def test_containers_with_one_name_and_one_home_leave_each_others_agents_alone(tmp_path: Path) -> None:
    url = str(tmp_path / "registry.db")
    with Registry.open(url, create=True) as registry:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        started = process_started(gone.pid)
        gone.wait()
        here = {"host": socket.gethostname(), "boot_id": machine_id()}
        living = registry.agents.enlist(
            agent_info(**here, pid=os.getpid(), process_started=process_started(os.getpid()))
        )
        dead = registry.agents.enlist(agent_info(**here, pid=gone.pid, process_started=started))
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", LOOK, url]
        try:
            other = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no unshare")
        if "unshare:" in other.stderr:
            pytest.skip(f"no pid namespace here: {other.stderr.strip()}")
        assert other.returncode == 0, other.stderr
        assert other.stdout.strip() != machine_id()
        assert {one.id for one in registry.catalogue.agents()} == {living, dead}
        mark_dead_agents(registry)
        assert {one.id for one in registry.catalogue.agents()} == {living}


class Unreachable(Backend):
    """A cluster that stops answering."""

    name = "unreachable"

    def __init__(self) -> None:
        self.stops = 0

    def survey(self, machine: Machine, workers: int | None) -> Site:
        return Site(hosts=frozenset(), agents=1)

    def adopt(self, fleet: Fleet) -> None:
        return

    def start(self, count: int) -> None:
        return

    def alive(self) -> int:
        raise QsweepError("the cluster does not answer any more")

    def stop(self, *, by_user: bool = False) -> None:
        self.stops += 1

    def kill(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("independent", [True, False])
def test_a_launcher_that_fails_leaves_agents_elsewhere_alone_and_says_so(
    independent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, console, backend = Home.at(tmp_path), Console(file=io.StringIO(), width=300), Unreachable()
    monkeypatch.setattr(Unreachable, "independent", independent)
    home.prepare()
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=1)
        registry.sweeps.register(sweep.id, trained(1))
        fleet = Fleet(home=home, workers=1, gpus=0, lease=30, scope=Scope(sweep=sweep.id), title=sweep.title, code="")
        with pytest.raises(QsweepError, match="does not answer any more"):
            Watch(home, registry, sweep, backend, fleet, console).run()
    assert isinstance(console.file, io.StringIO)
    said = "agents that are at work or in a queue go on" in console.file.getvalue()
    assert (said, backend.stops) == ((True, 0) if independent else (False, 1))


class Idle(Backend):
    """Agents that run elsewhere and get nothing done."""

    name = "idle"

    def __init__(self, others: int = 0) -> None:
        self.starts = 0
        self.there = others

    def survey(self, machine: Machine, workers: int | None) -> Site:
        return Site(hosts=frozenset(), agents=1)

    def adopt(self, fleet: Fleet) -> None:
        return

    def start(self, count: int) -> None:
        self.starts += count

    def alive(self) -> int:
        return 0

    def others(self, agents: Sequence[AgentRow]) -> int:
        return self.there

    def stop(self, *, by_user: bool = False) -> None:
        return

    def kill(self) -> None:
        return


def watched(
    home: Home, registry: Registry, sweep: Sweep, backend: Backend, *, lease: float = 30
) -> tuple[Watch, io.StringIO]:
    said = io.StringIO()
    fleet = Fleet(home=home, workers=1, gpus=0, lease=lease, scope=Scope(sweep=sweep.id), title=sweep.title, code="")
    return Watch(home, registry, sweep, backend, fleet, Console(file=said, width=300)), said


def test_a_launch_ends_with_what_it_has_where_the_rest_waits_for_a_failed_training(tmp_path: Path) -> None:
    home, backend = Home.at(tmp_path), Idle()
    home.prepare()
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=4)
        (parent,) = trained(1)
        registry.sweeps.register(sweep.id, [parent, *children(parent, 3)])
        agent = registry.agents.enlist(agent_info())
        registry.queue.fail(agent, claim(registry, agent), FailureClass.INPUT, "wrong")
        watch, said = watched(home, registry, sweep, backend)
        watch.run()
        assert backend.starts == 0
        assert "0 queued, 1 failed, 3 blocked" in said.getvalue()
        (line,) = blocked_words(sweep.title, registry.sweeps.blocked(sweep.id))
        assert line.startswith(f"grid@a: 3 jobs can't run: their training is failed ({parent.identity[:12]});")
        assert "qsweep retry grid@a" in line


def test_a_launch_whose_agents_have_stopped_waits_for_others_and_ends_without_any(tmp_path: Path) -> None:
    home, backend = Home.at(tmp_path), Idle()
    home.prepare()
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=2)
        registry.sweeps.register(sweep.id, trained(2))
        watch, said = watched(home, registry, sweep, backend, lease=0.001)
        weak = registry.agents.enlist(agent_info(host="weak", place=f"{watch.fleet.launch}/0"))
        registry.agents.stop(weak, "all failed, while others succeed")
        healthy = registry.agents.enlist(agent_info(host="far"))
        claim(registry, healthy, 1)
        watch._update()
        for _ in range(3):
            watch._keep_agents()
        words = f"agent {weak} on weak stopped: all failed, while others succeed"
        assert (backend.starts, said.getvalue().count(words)) == (0, 1)
        registry.agents.retire(healthy)
        with pytest.raises(Ended, match=f"{words}; now nobody is at work, with 0 of 2 jobs done; go on with") as ended:
            watch.run()
        assert (backend.starts, ended.value.exit_code) == (0, 1)


def test_a_launch_says_at_once_and_once_what_it_waits_for(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    home.prepare()
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=2)
        registry.sweeps.register(sweep.id, trained(2))
        watch, said = watched(home, registry, sweep, Idle(others=2))
        watch._update()
        watch._keep_agents()
        watch._keep_agents()
        assert said.getvalue().count("Waiting: 2 agents are at work that this launch has not started") == 1
        agent = registry.agents.enlist(agent_info(host="far", lease=20.0))
        held = claim(registry, agent)
        watch, said = watched(home, registry, sweep, Idle())
        watch._update()
        watch._keep_agents()
        assert "Waiting: 2 jobs are held by 1 agent on far" in said.getvalue()
        registry.queue.fail(agent, held, FailureClass.LOST, "gone")
        registry.queue.fail(agent, claim(registry, agent), FailureClass.LOST, "gone")
        watch, said = watched(home, registry, sweep, Idle())
        watch._update()
        watch._keep_agents()
        assert "Waiting: jobs that failed or were lost wait before they run again" in said.getvalue()


def test_a_launcher_sees_what_has_come_since_and_reads_no_pointer_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.at(tmp_path)
    home.prepare()
    with Registry.open(home.registry, create=True) as registry, Registry.open(home.registry) as other:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=4)
        registry.sweeps.register(sweep.id, trained(4))
        agent = other.agents.enlist(agent_info())
        watch, _ = watched(home, registry, sweep, Idle())
        finish(home, other, agent, "early")
        watch._update()
        committed = other.catalogue.committed
        monkeypatch.setattr(registry.catalogue, "committed", None)
        assert len(watch._seen) == 1
        assert not watch._has_changed()
        for publication in ("late", "later"):
            finish(home, other, agent, publication)
            assert watch._has_changed()
            watch._update()
            assert not watch._has_changed()
        assert watch._seen == {(row.job, row.attempt) for row in committed(sweep.id)}
        assert len(watch._seen) == 3
        assert watch.follower.counts == other.catalogue.counts(sweep.id)


def finish(home: Home, registry: Registry, agent: int, publication: str) -> None:
    """One job more is done, with a row of results."""
    (one,) = claim(registry, agent, 1)
    row = {"job": one.job.identity, "attempt": one.attempt, "bits": 32, "diverged": False, "train_loss": 1.0}
    ResultStore(home.store).write("runs", publication, [row])
    registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=one.attempt, publication=publication)])


def test_results_that_come_in_a_crowd_are_read_together_and_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.at(tmp_path)
    home.prepare()
    monkeypatch.setattr(watch_module, "AT_FIRST", -1e9)  # there is no time for looking
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=3)
        registry.sweeps.register(sweep.id, trained(3))
        agent = registry.agents.enlist(agent_info())
        watch, _ = watched(home, registry, sweep, Idle())
        seen = []
        monkeypatch.setattr(watch.tally.means, "add", lambda rows: seen.append(len(rows)))
        watch._update()
        for publication in ("a", "b", "c"):
            finish(home, registry, agent, publication)
            watch._update()
        assert len(watch._seen) == 3
        watch.run()
        assert sum(seen) == 3
        assert len(seen) < 3
