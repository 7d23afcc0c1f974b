"""Sweeps on a real Slurm of one node: walked away from, preempted, cancelled, resumed, finished as if run locally."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import qsweep as api
from db.registry import Registry
from db.rows import AttemptRow
from db.states import FailureClass
from orchestrator.backends.slurm import SlurmBackend, commands
from orchestrator.machine import Machine
from sweeps.errors import InputError
from tests.conftest import QSWEEP, environment
from tests.orchestrator.slurm import LARGEST_ARRAY, ask, one_node, until

pytestmark = pytest.mark.slow

SWEEP = """
title = "Slurm"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
depth = 2
weight_decay = 0.0
optimizer = "sgd"
epochs = {epochs}
batch_size = 64
[axes]
width = [2, 3]
bits = [32, 4]
learning_rate = [0.02, 0.01]
"""
"""8 trainings in two cohorts."""
PARTS = ("db", "workers", "sweeps", "reports", "orchestrator", "qsweep", "torch", "numpy", "submitit")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with one_node() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of every command: full of decoys, and with the sweep file."""
    decoys = tmp_path / "decoys"
    for name in PARTS:
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
        (decoys / f"{name}.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    (decoys / "slurm.toml").write_text(SWEEP.format(epochs=80))
    return decoys


@pytest.fixture
def run(home: Path, folder: Path, slurm: dict[str, str]) -> Iterator[Run]:
    """Run `qsweep` among the decoys with Slurm in reach; the test's arrays are ended with it."""

    def call(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [QSWEEP, *arguments],
            env=environment(home, slurm | extra),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    yield call
    ask(slurm, "scancel", "--user=" + ask(slurm, "id", "-un").strip())
    until(lambda: not ask(slurm, "squeue", "--noheader"), "the queue is empty")


def status(run: Run) -> dict[str, Any]:
    answer = run("status", "--json")
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


@pytest.fixture
def registry(home: Path) -> Callable[[], Registry]:
    """The test's registry, read past the command line, because waiting reads it often."""
    return lambda: Registry.open(home / "registry.db")


def past_the_first_steps(registry: Callable[[], Registry]) -> int:
    with registry() as opened:
        notes = [json.loads(agent.note) for agent in opened.agents() if agent.note]
    return sum(note["jobs"] for note in notes if note["step"] > 20)


def done(registry: Callable[[], Registry]) -> int:
    with registry() as opened:
        return opened.counts(opened.find_sweep("slurm").id).done


def attempts(registry: Callable[[], Registry]) -> list[AttemptRow]:
    with registry() as opened:
        jobs = opened.jobs(opened.find_sweep("slurm").id)
        return [one for job in jobs for one in opened.attempts(job.id)]


def arrays(slurm: dict[str, str]) -> list[str]:
    return sorted(set(ask(slurm, "squeue", "--noheader", "--format=%F").split()))


RESULTS = ("train_loss", "test_loss", "train_accuracy", "weight_norm", "distance", "last_train_loss", "chosen_epoch")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The results of the same sweep on the local backend."""
    place = tmp_path_factory.mktemp("local")
    (place / "slurm.toml").write_text(SWEEP.format(epochs=80))
    command = [QSWEEP, "launch", "slurm.toml"]
    answer = subprocess.run(
        command, env=environment(place / "home"), cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return api.results("slurm", home=place / "home").set_index("job")


def assert_same_results(home: Path, local: pd.DataFrame) -> None:
    runs = api.results("slurm", home=home).set_index("job")
    assert len(runs) == 8
    assert not runs.index.duplicated().any()
    for name in RESULTS:
        assert (runs[name] == local[name].reindex(runs.index)).all(), name


def test_a_detached_sweep_survives_a_requeue_among_decoys_and_ends_with_the_bits_of_a_local_one(
    run: Run, home: Path, registry: Callable[[], Registry], slurm: dict[str, str], local: pd.DataFrame
) -> None:
    answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", "2", "--detach")
    assert answer.returncode == 0, answer.stderr
    assert "2 agents started" in answer.stderr
    assert done(registry) == 0
    until(lambda: past_the_first_steps(registry) == 8, "all jobs are trained")
    (array,) = arrays(slurm)
    ask(slurm, "scontrol", "requeue", array)
    until(lambda: done(registry) == 8, "the sweep is done without a launcher")
    assert_same_results(home, local)
    tried = attempts(registry)
    assert {one.backend for one in tried} == {"slurm"}
    assert {one.failure_class for one in tried} <= {FailureClass.PREEMPTED, None}
    resumed = [one.resumed_from for one in tried if one.attempt == 2]
    assert len(resumed) == 8
    assert min(resumed) > 20
    assert "results counted" in run("logs", json.loads(run("jobs", "slurm", "--json").stdout)[0]["job"]).stdout
    assert "handed over on SIGTERM" in (home / "logs" / "slurm" / f"{array}_0_0_log.out").read_text()
    until(lambda: not arrays(slurm), "the agents have left")
    assert run("db", "check").returncode == 0


def test_a_cancelled_array_is_reported_and_resume_goes_on_where_the_sweep_was_started(
    run: Run, home: Path, registry: Callable[[], Registry], slurm: dict[str, str], local: pd.DataFrame
) -> None:
    answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", "2", "--slurm", "time=10", "--detach")
    assert answer.returncode == 0, answer.stderr
    until(lambda: past_the_first_steps(registry) > 0, "the sweep is trained")
    (array,) = arrays(slurm)
    ask(slurm, "scancel", array)
    until(lambda: not arrays(slurm), "the array is gone")
    found = status(run)
    assert (found["sweeps"][0]["running"], found["agents"]) == (0, [])
    assert found["remarks"] == [f"Slurm array {array}: 2 agents cancelled (scancel, or a preemption that cancels)"]
    again = run("resume", "slurm")
    assert again.returncode == 0, again.stderr
    assert "Table 1" in again.stdout
    assert_same_results(home, local)
    tried = attempts(registry)
    assert {one.backend for one in tried} == {"slurm"}
    assert max(one.resumed_from for one in tried) > 20
    records = [json.loads(file.read_text()) for file in (home / "starts").glob("*.json")]
    assert [(one["agents"], one["options"]) for one in records] == [(2, {"time": "10"})] * 2


def test_in_an_allocation_of_one_minute_an_agent_outlives_a_crash_and_the_allocations_end(
    run: Run, home: Path, folder: Path, registry: Callable[[], Registry], slurm: dict[str, str]
) -> None:
    (folder / "slurm.toml").write_text(SWEEP.format(epochs=20_000))
    options = ("--slurm", "time=1", "--slurm", "handover=35", "--limit", "2", "--detach")
    answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", "1", *options)
    assert answer.returncode == 0, answer.stderr
    until(lambda: past_the_first_steps(registry) == 2, "the jobs are trained")
    with registry() as opened:
        os.kill(opened.agents()[0].pid, signal.SIGKILL)
    both = {FailureClass.CRASH, FailureClass.PREEMPTED}
    until(lambda: {one.failure_class for one in attempts(registry)} == both | {None}, "they are taken up twice")
    assert max(one.resumed_from for one in attempts(registry)) > 20
    (array,) = arrays(slurm)
    (file,) = (home / "logs" / "slurm").glob(f"{array}_*log.out")
    log = file.read_text()
    assert "the agent ended with 1 and is started again" in log
    assert re.search(r"(60|5\d) s are left, the last 35 of them for the hand-over", log)
    assert "handed over on SIGUSR1, and requeued" in log
    assert run("cancel", "slurm").returncode == 0
    until(lambda: not arrays(slurm), "the agent of the cancelled sweep has left")


def test_what_keeps_agents_from_starting_is_said_in_plain_words(run: Run, slurm: dict[str, str]) -> None:
    ask(slurm, "sbatch", "--exclusive", "--wrap=sleep 600", "--output=/dev/null")
    until(lambda: "RUNNING" in ask(slurm, "squeue", "--noheader", "--format=%T"), "the node is full")
    workers = str(LARGEST_ARRAY + 1)
    answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", workers, "--detach")
    assert answer.returncode == 0, answer.stderr
    names = ask(slurm, "squeue", "--noheader", "--format=%F %j").split("\n")
    first, second = sorted({line.split()[0] for line in names if "qsweep" in line}, key=int)
    held = f"Slurm array {second}: 1 agent held by you; let them go with: scontrol release {second}"
    until(lambda: f"Slurm array {first}: 4 agents waiting for free nodes" in status(run)["remarks"], "it says: full")
    ask(slurm, "scontrol", "uhold", second)
    assert held in status(run)["remarks"]
    assert f"{held}\n" in run("status").stdout
    assert run("cancel", "slurm").returncode == 0
    assert not [line for line in ask(slurm, "squeue", "--noheader", "--format=%j").split() if "qsweep" in line]
    assert status(run)["remarks"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2", "--slurm", "partitoin=main"), "unknown key 'partitoin'; did you mean 'partition'?"),
        (("--workers", "2", "--slurm", "partition=nowhere"), "partition specified: nowhere"),
        (("--workers", "2", "--slurm", "partition=wide"), "agents on other machines (far1, far2) can't share a SQLite"),
    ],
)
def test_what_slurm_can_not_give_is_refused_before_anything_is_written(
    run: Run, home: Path, options: tuple[str, ...], message: str
) -> None:
    answer = run("launch", "slurm.toml", "--backend", "slurm", *options)
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not home.exists()


MACHINE = Machine(cores=2, gpus=0, torch="")


@pytest.mark.parametrize(
    ("options", "workers", "message"),
    [
        ({"nodes": "2"}, 2, "nodes can't be chosen: an agent runs on one node"),
        ({"cpus_per_task": "many"}, 2, "cpus_per_task=many; a whole number"),
        ({"mem": "9000G"}, 2, "Requested node configuration is not available"),
        ({"partition": "wide", "gres": "gpu:9"}, 2, "Requested node configuration is not available"),
        ({"time": "soon"}, 2, "Invalid --time specification"),
        ({}, None, "how many agents shall be submitted"),
    ],
)
def test_a_survey_says_what_is_wrong_with_a_request(
    options: dict[str, str], workers: int | None, message: str, slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    with pytest.raises(InputError, match=re.escape(message)):
        SlurmBackend.from_options(options).survey(MACHINE, workers)


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InputError, match="there is no Slurm on this machine"):
        SlurmBackend.from_options({}).survey(MACHINE, 2)


def test_a_controller_that_does_not_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("sbatch") is None:
        pytest.skip("not installed: sbatch")
    nobody = tmp_path / "slurm.conf"
    nobody.write_text("ClusterName=gone\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=9\n")
    monkeypatch.setenv("SLURM_CONF", str(nobody))
    with pytest.raises(InputError, match="controller does not answer"):
        SlurmBackend.from_options({}).survey(MACHINE, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:00", 60), ("0:07", 7), ("1:02:03", 3723), ("2-00:00:01", 172_801), ("UNLIMITED", None), ("INVALID", None)],
)
def test_slurms_durations_are_understood(text: str, expected: float | None) -> None:
    assert commands.seconds(text) == expected
