"""A sweep from launch to table, by the command line alone, with real agents on real digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import qsweep as api
from qsweep.db.registry import Registry
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, SCRIPT, Qsweep, environment, wait_until_training

pytestmark = pytest.mark.slow

SMALL = ("digits-grid", "--set", "epochs=3", "--where", "width == 8 and depth == 2 and weight_decay == 0")
"""36 jobs: 9 rates of 3 optimizers × 4 precisions."""
LONG = (
    "digits-grid",
    "--set",
    "epochs=150",
    "--where",
    "width == 8 and depth == 2 and optimizer == 'sgd' and weight_decay == 0",
)
"""12 jobs that take long enough to be interrupted."""


def counts(qsweep: Qsweep) -> dict[str, Any]:
    (row,) = json.loads(qsweep("status", "--json").stdout)["sweeps"]
    return dict(row)


def descendants_by_home(home: Path) -> list[psutil.Process]:
    """Every process that works for this home, no matter who started it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) or process.environ().get("QSWEEP_HOME") == str(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def test_a_sweep_is_launched_once_and_then_there_is_nothing_to_do(qsweep: Qsweep, home: Path) -> None:
    first = qsweep("launch", *SMALL)
    assert first.returncode == 0, first.stderr
    assert "36 jobs: 36 new" in first.stderr
    assert "Table 1" in first.stdout
    assert counts(qsweep)["done"] == 36

    again = qsweep("launch", *SMALL)
    assert again.returncode == 0
    assert "0 new, 36 known" in again.stderr
    assert "Nothing to do" in again.stderr
    assert again.stdout == first.stdout

    runs = api.results("digits-grid", home=home)
    assert len(runs) == runs.job.nunique() == 36
    assert (runs.attempt == 1).all()
    assert runs.code.nunique() == 1
    assert (runs.generalization_gap == runs.test_loss - runs.train_loss).all()
    epochs = api.results("digits-grid", "epochs", home=home)
    assert len(epochs) == 36 * 3
    best = epochs.loc[epochs.groupby("job").train_loss.idxmin()].set_index("job").epoch
    assert (runs.set_index("job").chosen_epoch == best.reindex(runs.job)).all()
    layers = api.results("digits-grid", "layers", home=home)
    assert set(layers[layers.bits == 32].step_size.isna()) == {True}
    assert (layers[layers.bits != 32].step_size > 0).all()
    assert len(list((home / "models").rglob("*.pt"))) == 36

    text = qsweep("tables", "digits-grid", "--format", "csv").stdout
    means = {line.split(",")[2]: float(line.split(",")[3]) for line in text.splitlines()[1:]}
    for precision, bits in {"FP32": 32, "Int8": 8, "Int4": 4, "Int2": 2}.items():
        assert means[precision] == pytest.approx(100 * runs[runs.bits == bits].train_accuracy.mean(), rel=1e-12)

    grown = qsweep("launch", *SMALL[:-1], "width == 8 and depth == 2 and weight_decay < 2e-4 and optimizer == 'sgd'")
    assert grown.returncode == 0, grown.stderr
    assert "12 new, 12 known" in grown.stderr
    assert counts(qsweep)["done"] == 48

    show = qsweep("show", runs.job[0][:12]).stdout
    assert "queued → running" in show
    assert "running → done" in show
    assert "results counted" in qsweep("logs", runs.job[0][:12]).stdout
    listed = json.loads(qsweep("jobs", "digits-grid", "--state", "done", "--where", "bits == 2", "--json").stdout)
    assert len(listed) == 12
    assert qsweep("db", "check").returncode == 0


@pytest.mark.fault
def test_killing_everything_loses_nothing_and_work_goes_on_from_checkpoints(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    uninterrupted = tmp_path / "uninterrupted"
    command = ("launch", *LONG, "--set", "epochs=15")
    often = environment(home, {"QSWEEP_CHECKPOINT_STEPS": "40"})
    launched = processes.start([*QSWEEP, *command], env=often, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_training(home, 12)
    with Registry.open(home / "registry.db") as registry:
        agents = [psutil.Process(agent.pid) for agent in registry.agents()]
    if hasattr(os, "sched_setaffinity"):
        cores = [agent.cpu_affinity() for agent in agents]
        assert [len(some) for some in cores] == [1] * len(agents), "one agent per core, each on its own"
        assert len({core for some in cores for core in some}) == len(agents)
    for process in [*descendants_by_home(home), psutil.Process(launched.pid)]:
        process.kill()
    launched.wait()
    assert counts(qsweep)["done"] == 0

    again = qsweep(*command)
    assert again.returncode == 0, again.stderr
    assert counts(qsweep)["done"] == 12
    runs = api.results("digits-grid", home=home)
    assert len(runs) == runs.job.nunique() == 12
    with Registry.open(home / "registry.db") as registry:
        jobs = registry.jobs(registry.find_sweep("digits-grid").id)
        assert min(registry.attempts(row.id)[-1].resumed_from for row in jobs) > 0

    reference = qsweep("--home", str(uninterrupted), *command)
    assert reference.stdout == again.stdout
    other = api.results("digits-grid", home=uninterrupted).set_index("job")
    for column in ("train_loss", "test_loss", "weight_norm", "distance", "last_train_loss"):
        assert (runs.set_index("job")[column] == other[column].reindex(runs.job)).all()


def test_a_job_over_its_time_limit_fails_as_timeout_and_can_be_retried(qsweep: Qsweep) -> None:
    limited = qsweep("launch", *LONG, "--set", "epochs=4000", "--limit", "2", "--workers", "1", "--time-limit", "2")
    assert limited.returncode == 1, limited.stderr
    failed = json.loads(qsweep("jobs", "digits-grid", "--state", "failed", "--json").stdout)
    assert len(failed) == 2
    attempts = json.loads(qsweep("show", failed[0]["job"], "--json").stdout)["attempts"]
    assert [one["failure_class"] for one in attempts] == ["timeout"]
    assert "not done after 2 s, at step" in attempts[0]["error"]
    again = qsweep("retry", "digits-grid", "--state", "failed", "--class", "timeout")
    assert again.returncode == 0, again.stderr
    assert counts(qsweep)["queued"] == 2


@pytest.mark.fault
def test_ctrl_c_hands_the_jobs_back_and_says_how_to_resume(qsweep: Qsweep, home: Path) -> None:
    launched = processes.start(
        [*QSWEEP, "launch", *LONG],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_training(home, 12)
    launched.send_signal(signal.SIGINT)
    _, said = launched.communicate(timeout=600)
    assert launched.returncode == 130
    assert "qsweep resume digits-grid@" in said
    state = counts(qsweep)
    assert (state["queued"], state["running"]) == (12, 0)
    assert len({path.parent for path in (home / "checkpoints").rglob("*.pt")}) == 12
    listed = api.results("digits-grid", "attempts", home=home)
    assert set(listed.failure_class) == {"interrupted"}
    assert not descendants_by_home(home)


def test_decoys_in_the_current_folder_change_nothing(home: Path, tmp_path: Path) -> None:
    decoys = tmp_path / "decoys"
    for name in ("db", "workers", "sweeps", "reports", "orchestrator", "qsweep", "torch", "numpy"):
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
        (decoys / f"{name}.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    command = [SCRIPT, "launch", "digits-grid", "--set", "epochs=1", "--limit", "2", "--workers", "1"]
    answer = subprocess.run(  # every process of it is started cold
        command, cwd=decoys, env=environment(home), capture_output=True, text=True, timeout=600, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "decoy" not in answer.stderr
    assert "Table 1" in answer.stdout


@pytest.mark.fault
def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(qsweep: Qsweep, home: Path) -> None:
    launched = processes.start(
        [*QSWEEP, "launch", *LONG], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until_training(home, 12)
    agents = [process for process in descendants_by_home(home) if "qsweep.workers.agent" in " ".join(process.cmdline())]
    for agent in agents:
        agent.suspend()  # so that it can't answer the first one
    launched.send_signal(signal.SIGINT)
    assert launched.stderr is not None
    assert any("Stopping: " in line for line in launched.stderr)  # it has heard the first one
    launched.send_signal(signal.SIGINT)
    launched.communicate(timeout=600)
    assert launched.returncode == 130
    assert not descendants_by_home(home)
    state = counts(qsweep)
    assert (state["queued"], state["running"], state["failed"]) == (12, 0, 0)


def test_an_agent_that_could_only_wait_for_others_to_fail_leaves_where_it_would_occupy_a_node(
    qsweep: Qsweep, home: Path
) -> None:
    endless = ("--set", "epochs=4000", "--limit", "2", "--workers", "1", "--lease", "6", "--detach")
    launched = qsweep("launch", *LONG, *endless)
    assert launched.returncode == 0, launched.stderr
    wait_until_training(home, 2)
    second = qsweep("worker", "digits-grid", environment={"QSWEEP_IDLE": "1"}, timeout=600)
    assert second.returncode == 0, second.stderr
    assert counts(qsweep)["running"] == 2
    assert qsweep("cancel", "digits-grid").returncode == 0
    deadline = time.monotonic() + 600
    while json.loads(qsweep("status", "--json").stdout)["agents"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert counts(qsweep)["cancelled"] == 2
