"""Dead agents are noticed soon, live ones are left alone, and the launcher replaces what is missing."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from tests.fault.small import Small, keepers, kill, supervisor_of
from tests.frozen import change_code

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def query(home: Path, text: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{home / 'registry.db'}?mode=ro", uri=True)
    try:
        return list(connection.execute(text).fetchall())
    finally:
        connection.close()


def holder(small: Small) -> int:
    """The process that runs the cohort."""
    ((pid,),) = query(
        small.home, "SELECT DISTINCT pid FROM jobs JOIN agents ON agents.id = agent_id WHERE jobs.state = 'running'"
    )
    assert isinstance(pid, int)
    return pid


def end(small: Small) -> None:
    kill(*keepers(small.home))
    for agent in small.status()["agents"]:
        if psutil.pid_exists(agent["pid"]):
            kill(*(pid for pid in (supervisor_of(agent["pid"]), agent["pid"]) if pid > 1))


def test_the_jobs_of_an_agent_that_died_with_its_supervisor_run_again_within_two_leases(tmp_path: Path) -> None:
    lease = 15.0
    small = Small(tmp_path, epochs=400)
    assert small.run("launch", "small.toml", "--workers", "2", "--lease", str(lease), "--detach").returncode == 0
    try:
        small.agents(2)  # one holds the only cohort, the other waits for it
        kill(*keepers(small.home))  # which would see the death at once
        dead = holder(small)
        died = time.time()
        kill(supervisor_of(dead), dead)
        deadline = died + 600
        while time.time() < deadline:
            again = query(small.home, "SELECT at, detail FROM events WHERE attempt = 2 AND target = 'running'")
            if again:
                break
            time.sleep(0.1)
        assert len(again) == 4
        assert all(at - died < 2 * lease for at, _ in again if isinstance(at, float))
        assert all(str(detail).startswith("claimed, from step") for _, detail in again)
        assert holder(small) != dead
    finally:
        end(small)


def test_eight_agents_on_a_loaded_machine_keep_their_leases(tmp_path: Path) -> None:
    """Eight agents where there are cores for two: slow, but nobody is taken for dead."""
    small = Small(tmp_path, epochs=15, seeds=16)
    answer = small.run("launch", "small.toml", "--workers", "8", "--lease", "8")
    assert answer.returncode == 0, answer.stderr
    assert query(small.home, "SELECT count(*) FROM agents") >= [(8,)]
    assert query(small.home, "SELECT state, count(*) FROM agents GROUP BY state") == query(
        small.home, "SELECT 'retired', count(*) FROM agents"
    )
    assert query(small.home, "SELECT DISTINCT attempt, state FROM jobs") == [(1, "done")]


def test_a_launch_replaces_an_agent_that_it_lost(tmp_path: Path) -> None:
    small = Small(tmp_path, epochs=30)
    launch = small.start("launch", "small.toml", "--workers", "1", "--lease", "30")
    (agent,) = small.agents(1)
    kill(supervisor_of(agent.pid), agent.pid)
    _, stderr = launch.communicate(timeout=600)
    assert launch.returncode == 0, stderr
    ends = query(small.home, "SELECT reason, state FROM agents ORDER BY id")
    assert ends == [("its process is gone", "dead"), ("retired", "retired")]
    assert query(small.home, "SELECT DISTINCT attempt, failure_class FROM attempts WHERE attempt = 1") == [(1, "lost")]
    assert small.counts()["done"] == 4


def test_a_launch_whose_agents_end_without_doing_anything_gives_up_and_says_where_to_look(
    tmp_path: Path,
) -> None:
    small = Small(tmp_path, epochs=2)
    assert small.run("launch", "small.toml", "--limit", "1", "--workers", "1").returncode == 0
    change_code(small.home, "qsweep/workers/agent/__main__.py", "raise SystemExit('broken')\n")
    answer = small.run("launch", "small.toml", "--workers", "1", "--code", "frozen")
    assert answer.returncode == 1
    assert "agents end without doing anything; see " in answer.stderr
    assert "broken" in (small.home / "logs" / "agents" / "supervisors.log").read_text()
    assert small.counts()["queued"] == 3


def test_a_selection_after_an_interrupted_launch_runs_that_selection_alone(tmp_path: Path) -> None:
    small = Small(tmp_path, epochs=25)
    launch = small.start("launch", "small.toml", "--workers", "1")
    small.agents(1)
    launch.terminate()
    launch.communicate(timeout=600)
    assert small.counts()["queued"] == 4

    answer = small.run("launch", "small.toml", "--workers", "1", "--where", "bits == 4")
    assert answer.returncode == 0, answer.stderr
    assert "2/2 done" in answer.stderr
    states = {
        json.loads(str(content))["settings"]["bits"]: state
        for content, state in query(small.home, "SELECT content, state FROM jobs")
    }
    assert states == {4: "done", 32: "queued"}
    assert small.run("resume", "small", "--workers", "1").returncode == 0
    assert small.counts()["done"] == 4


def test_a_detached_launch_keeps_agents_at_work_until_nothing_is_left(tmp_path: Path) -> None:
    small = Small(tmp_path, epochs=60)
    launched = small.run("launch", "small.toml", "--workers", "1", "--detach")
    assert "keeps 1 agent at work here" in launched.stderr, launched.stderr
    (dead,) = small.agents(1)
    (keeper,) = keepers(small.home)
    assert f"process {keeper} keeps 1 agent at work" in small.run("status").stdout
    kill(supervisor_of(dead.pid), dead.pid)
    psutil.wait_procs([psutil.Process(keeper)], timeout=600)
    assert not keepers(small.home)
    assert query(small.home, "SELECT count(*) FROM agents") >= [(2,)]
    assert query(small.home, "SELECT DISTINCT state FROM jobs") == [("done",)]
    said = small.run("status").stdout
    assert "no agents running" not in said
    assert "keeps" not in said
