"""After everything was killed, what is looked at tells the truth and changes nothing; what is done then helps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.clock import machine_id, process_started
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint, Finished
from qsweep.db.states import AgentState, FailureClass
from qsweep.orchestrator import checkup
from qsweep.orchestrator.loglines import follow_log
from tests.conftest import Qsweep
from tests.db.conftest import agent_info, claim
from tests.db.test_blocking import children
from tests.reports.made import Made, launch, work


@pytest.fixture
def made(home: Path) -> Made:
    """A real sweep of 24 jobs, in three cohorts, nothing done."""
    return launch(Home.at(home))


@pytest.fixture
def registry(made: Made) -> Iterator[Registry]:
    with Registry.open(made.home.registry) as opened:
        yield opened


def status(here: Qsweep) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(here("status", "--json").stdout)
    return found


def one_that_is_gone() -> dict[str, Any]:
    """What an agent said of itself whose process has ended since, on this machine."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(process.pid)
    process.communicate(b"\n")
    return {"host": socket.gethostname(), "boot_id": machine_id(), "pid": process.pid, "process_started": started}


@pytest.mark.parametrize("silent", [True, False])
def test_lost_jobs_are_shown_as_lost_and_nothing_is_changed(
    here: Qsweep, registry: Registry, made: Made, silent: bool
) -> None:
    """Silent: on another machine, where only the lease tells. Else the process was here, and its lease goes on."""
    given = {"lease": 0.001} if silent else one_that_is_gone()
    held = claim(registry, registry.enlist(agent_info(**given)), 6)
    newest = registry.newest_event()
    (row,) = status(here)["sweeps"]
    assert (row["running"], row["lost"], row["queued"]) == (0, 6, 18)
    text = here("status").stdout
    cause = "their agents' leases ran out" if silent else "their agents' processes are gone"
    assert f"6 lost: {cause}" in text
    assert "`qsweep resume made@" in text
    assert "no agents running; start some with: qsweep resume made@" in text
    name = held[0].job.identity[:12]
    listed = json.loads(here("jobs", "made", "--state", "running", "--json").stdout)
    assert [job["lost"] for job in listed] == [True] * 6
    assert f"{name}  running (lost)" in here("jobs", "made").stdout
    shown = here("show", name).stdout
    assert "running (lost), attempt 1" in shown
    assert cause in shown
    checked = here("db", "check")
    assert (checked.returncode, "6 lost" in checked.stdout) == (0, True)
    found = checkup._registry(made.home)
    assert (found.ok, found.needed, "6 lost" in found.text) == (False, False, True)
    assert registry.newest_event() == newest
    assert len(registry.agents(AgentState.ALIVE)) == 1


@pytest.mark.parametrize("silent", [True, False])
def test_cancel_leaves_nothing_running_and_retry_says_what_resume_does(
    here: Qsweep, registry: Registry, made: Made, silent: bool
) -> None:
    claim(registry, registry.enlist(agent_info(**({"lease": 0.001} if silent else one_that_is_gone()))), 6)
    retried = here("retry", "made")
    assert "6 lost" in retried.stdout
    assert "0 jobs queued again\n" in retried.stdout  # nothing to run, so no word of how
    assert here("cancel", "made").returncode == 0
    counts = registry.counts(made.sweep.id)
    assert (counts.running, counts.queued, counts.cancelled) == (0, 0, 24)


def test_a_sweep_that_is_complete_is_not_cancelled(here: Qsweep, registry: Registry, made: Made) -> None:
    agent = registry.enlist(agent_info())
    while claims := claim(registry, agent):
        registry.finish(agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication="p") for c in claims])
    said = here("cancel", "made")
    assert (said.returncode, said.stdout) == (0, f"{made.sweep.title}: complete; nothing to cancel\n")
    assert status(here)["sweeps"][0]["state"] == "complete"


def test_jobs_taken_back_into_a_cancelled_sweep_are_said_to_wait(here: Qsweep, registry: Registry, made: Made) -> None:
    agent = registry.enlist(agent_info())
    done = claim(registry, agent, 2)
    registry.finish(agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication="p") for c in done])
    assert here("cancel", "made").returncode == 0
    waiting = f"{made.sweep.title} is cancelled: 2 queued jobs wait until it goes on with: qsweep resume made"
    assert "queued job" not in here("status").stdout
    repaired = here("db", "check", "--repair", "--yes")
    assert waiting in repaired.stderr
    assert waiting in here("status").stdout


def test_who_waits_for_nobody_is_told_and_who_works_is_not(here: Qsweep, registry: Registry) -> None:
    assert "no agents running" in here("status").stdout
    registry.enlist(agent_info())
    assert "no agents running" not in here("status").stdout


def test_blocked_and_diverged_jobs_are_named(here: Qsweep, registry: Registry, made: Made) -> None:
    agent = registry.enlist(agent_info())
    first, second, *_ = claim(registry, agent, 4)
    registry.register(made.sweep.id, children(first.job, 3))
    registry.fail(agent, [first], FailureClass.INPUT, "wrong")
    registry.finish(agent, [Finished(job_id=second.job_id, attempt=1, publication="p", diverged=True)])
    (row,) = status(here)["sweeps"]
    assert (row["blocked"], row["diverged"], row["queued"]) == (3, 1, 23)
    text = here("status").stdout
    assert f"3 jobs can't run: their training is failed ({first.job.identity[:12]})" in text
    assert "1 job has diverged" in text
    assert "done (diverged)" in here("jobs", "made").stdout
    assert "done (diverged)" in here("show", second.job.identity).stdout


def test_jobs_show_what_was_found_in_any_order(here: Qsweep, made: Made) -> None:
    work(made, diverged=(2,))
    runs = made.frame().dropna(subset=["test_loss"])
    listed = json.loads(here("jobs", "made", "--sort", "test_loss", "--json").stdout)
    assert [job["test_loss"] for job in listed][:-1] == sorted(runs.test_loss)
    assert listed[-1]["diverged"]
    downwards = json.loads(here("jobs", "made", "--sort", "-test_loss", "--json").stdout)
    assert [job["test_loss"] for job in downwards][:-1] == sorted(runs.test_loss, reverse=True)
    best = json.loads(here("jobs", "made", "--best", "3", "--json").stdout)
    assert [job["test_accuracy"] for job in best] == sorted(runs.test_accuracy, reverse=True)[:3]
    least = json.loads(here("jobs", "made", "--best", "2", "--sort", "generalization_gap", "--json").stdout)
    assert [job["generalization_gap"] for job in least] == sorted(runs.generalization_gap)[:2]
    table = here("jobs", "made", "--columns", "seconds,bits", "--limit", "2").stdout.splitlines()
    assert table[0].split() == ["job", "state", "seconds", "bits"]
    assert len(table) == 3
    for option, value in (("--sort", "test_los"), ("--columns", "bits,wdth")):
        refused = here("jobs", "made", option, value)
        assert refused.returncode == 2
        assert "did you mean" in refused.stderr


def test_a_job_shows_its_results_its_epochs_and_its_model(here: Qsweep, registry: Registry, made: Made) -> None:
    work(made, cohorts=1)
    row = made.rows["runs"][0]
    shown = here("show", row["job"]).stdout
    assert f"test_loss           {row['test_loss']:.6g}" in shown
    assert "epochs    3 of 3" in shown
    agent = registry.enlist(agent_info())
    one, other, *_ = claim(registry, agent)
    curve = [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25}]
    registry.checkpointed(
        agent, [Checkpoint(job_id=one.job_id, attempt=1, step=9, epoch=2, file="f", checksum="c", curve=curve)]
    )
    assert "epochs    2 of 3, training loss of the last: 0.2500" in here("show", one.job.identity).stdout
    assert "running (epoch 2)" in here("jobs", "made").stdout
    done = Finished(job_id=other.job_id, attempt=1, publication="gone", model_file="ab/abc-1.pt", model_hash="h")
    registry.finish(agent, [done])
    shown = here("show", other.job.identity).stdout
    assert f"model     {made.home.models / 'ab/abc-1.pt'}" in shown
    assert "results   can't be read" in shown
    listed = here("jobs", "made")
    assert listed.returncode == 0
    assert "note: the results of 1 done job of made@" in listed.stderr


def test_a_log_is_followed_until_its_job_ends(here: Qsweep, registry: Registry, made: Made) -> None:
    log = made.home.logs / "agents" / "one.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("one\ntwo\n")
    agent = registry.enlist(agent_info(log=str(log.relative_to(made.home.root))))
    (one,) = claim(registry, agent, 1)
    assert here("logs", one.job.identity, "-n", "1").stdout == "two\n"
    followed = follow_log(made.home, registry, registry.job(one.job.identity), 1)
    assert next(followed) == "two"
    with log.open("a") as file:
        file.write("three\nfo")
    assert next(followed) == "three"
    with log.open("a") as file:
        file.write("ur\n")
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])
    assert list(followed) == ["four"]


def test_an_agent_that_has_told_nothing_yet_is_said_to_wait_or_to_begin(here: Qsweep, registry: Registry) -> None:
    agent = registry.enlist(agent_info())
    assert f"agent {agent} on here (cpu): waits for jobs" in here("status").stdout
    claim(registry, agent, 1)
    assert f"agent {agent} on here (cpu): begins with 1 job" in here("status").stdout
