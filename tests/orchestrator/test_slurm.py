"""Sweeps on a real Slurm of one node: walked away from, preempted, cancelled, resumed, finished as if run locally."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AttemptRow, Scope
from qsweep.db.states import FailureClass, State
from qsweep.orchestrator.backends.base import Fleet
from qsweep.orchestrator.backends.slurm import SlurmBackend, commands
from qsweep.orchestrator.starts import Start, fleet_size, record
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.faults import LISTENER
from tests.conftest import QSWEEP, SCRIPT, environment
from tests.gate import Gate
from tests.orchestrator import called, owned
from tests.orchestrator.slurm import LARGEST_ARRAY, ask, in_service, one_node, until

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
def gate() -> Iterator[Gate]:
    """Every agent on this Slurm passes it."""
    with tempfile.TemporaryDirectory(prefix="qsg-") as folder:
        found = Gate(Path(folder) / "gate")
        yield found
        found.close()


@pytest.fixture(scope="module")
def slurm(gate: Gate) -> Iterator[dict[str, str]]:
    with one_node() as found:
        yield found | {LISTENER: str(gate.socket)}


@pytest.fixture
def held(gate: Gate) -> Iterator[None]:
    """Trainings of this test go slowly from beginning to end."""
    with gate.held():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of every command: full of decoys, and with the sweep file."""
    decoys = tmp_path / "decoys"
    for name in PARTS:
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
        (decoys / f"{name}.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    (decoys / "slurm.toml").write_text(SWEEP.format(epochs=15))
    return decoys


@pytest.fixture
def run(home: Path, folder: Path, slurm: dict[str, str]) -> Iterator[Run]:
    """Run `qsweep` among the decoys with Slurm in reach; the test's arrays are ended with it."""

    def call(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return processes.run(
            [*QSWEEP, *arguments],
            env=environment(home, slurm | extra),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    yield call
    ask(slurm, "scancel", "--user=" + ask(slurm, "id", "-un").strip())
    until(lambda: in_service(slurm) and not ask(slurm, "squeue", "--noheader"), "the queue is empty", slurm=slurm)


def status(run: Run) -> dict[str, Any]:
    answer = run("status", "--json")
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


@pytest.fixture
def registry(home: Path) -> Callable[[], Registry]:
    """The test's registry, read past the command line, because waiting reads it often."""
    return lambda: Registry.open(home / "registry.db")


def past_the_first_steps(registry: Callable[[], Registry]) -> int:
    """How many jobs run and have a checkpoint of that."""
    with registry() as opened:
        rows = opened.catalogue.jobs(opened.catalogue.find_sweep("slurm").id, state=State.RUNNING)
    return sum(row.progress > 20 for row in rows)


def done(registry: Callable[[], Registry]) -> int:
    with registry() as opened:
        return opened.catalogue.counts(opened.catalogue.find_sweep("slurm").id).done


def attempts(registry: Callable[[], Registry]) -> list[AttemptRow]:
    with registry() as opened:
        jobs = opened.catalogue.jobs(opened.catalogue.find_sweep("slurm").id)
        return [one for job in jobs for one in opened.history.attempts(job.id)]


def launcher(folder: Path, home: Path, slurm: dict[str, str], log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A launch that stays and watches, what it says in a file."""
    with log.open("wb") as output:
        return processes.start(
            [*QSWEEP, *arguments], env=environment(home, slurm), cwd=folder, stdout=output, stderr=output
        )


def pilot_of(agent: int) -> psutil.Process:
    """The element's process: its agent is its child."""
    return psutil.Process(psutil.Process(agent).ppid())


def elements(slurm: dict[str, str]) -> list[str]:
    """`ARRAY_INDEX` of all that wait or run."""
    found = ask(slurm, "squeue", "--noheader", "--array", "--states=PENDING,RUNNING", "--format=%i").split()
    return sorted(found)


def starts(home: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((home / "starts").glob("*.json"))]


def arrays(slurm: dict[str, str]) -> list[str]:
    return sorted(set(ask(slurm, "squeue", "--noheader", "--format=%F").split()))


RESULTS = ("train_loss", "test_loss", "train_accuracy", "weight_norm", "distance", "last_train_loss", "chosen_epoch")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The results of the same sweep on the local backend."""
    place = tmp_path_factory.mktemp("local")
    (place / "slurm.toml").write_text(SWEEP.format(epochs=15))
    command = [*QSWEEP, "launch", "slurm.toml"]
    answer = processes.run(
        command, env=environment(place / "home"), cwd=place, capture_output=True, text=True, timeout=600, check=False
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
    run: Run,
    folder: Path,
    home: Path,
    registry: Callable[[], Registry],
    gate: Gate,
    slurm: dict[str, str],
    local: pd.DataFrame,
) -> None:
    with gate.held():
        answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", "2", "--detach")
        assert answer.returncode == 0, answer.stderr
        assert "2 agents started" in answer.stderr
        assert done(registry) == 0
        until(lambda: past_the_first_steps(registry) == 8, "all jobs are trained")
        (array,) = arrays(slurm)
        ask(slurm, "scontrol", "requeue", array)
        until(lambda: len([one for one in attempts(registry) if one.failure_class]) == 8, "all are handed over")
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

    called.write(folder)  # a function is handed over by what it saved
    assert run("launch", "calls.toml", "--backend", "slurm", "--workers", "1", "--detach").returncode == 0
    until((folder / "reached").exists, "the function waits")
    (array,) = arrays(slurm)
    ask(slurm, "scontrol", "requeue", array)
    until(lambda: len(called.attempts(Home.at(home))[1]) == 2, "it is taken up again")
    (folder / "go").touch()
    until(lambda: not arrays(slurm), "the agent has left")
    tried = called.attempts(Home.at(home))
    assert [(one.backend, one.failure_class) for one in tried[1]] == [
        ("slurm", FailureClass.PREEMPTED),
        ("slurm", None),
    ]
    assert tried[1][-1].resumed_from == 2
    found = api.query("SELECT x, loss FROM returned ORDER BY x", home=home)
    assert found.loss.tolist() == [0.25, 0.5, 1.0]

    owned.write(folder)  # a module of the user's, and what it imports, come along
    answer = run("launch", "own.toml", "--backend", "slurm", "--workers", "1")
    assert answer.returncode == 0, answer.stderr
    with registry() as opened:
        tried = [
            one
            for row in opened.catalogue.jobs(opened.catalogue.find_sweep("own").id)
            for one in opened.history.attempts(row.id)
        ]
    assert [(one.backend, one.failure_class) for one in tried] == [("slurm", None)] * owned.JOBS
    assert run("db", "check").returncode == 0


def test_a_cancelled_array_is_reported_and_resume_goes_on_where_the_sweep_was_started(
    run: Run, home: Path, registry: Callable[[], Registry], gate: Gate, slurm: dict[str, str], local: pd.DataFrame
) -> None:
    with gate.held():
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
    assert [(one["agents"], one["options"]) for one in starts(home)] == [(2, {"time": "10"})] * 2


@pytest.mark.usefixtures("held")
def test_a_launch_replaces_what_died_leaves_what_was_cancelled_and_can_be_told_to_end(
    run: Run, home: Path, folder: Path, registry: Callable[[], Registry], slurm: dict[str, str], tmp_path: Path
) -> None:
    (folder / "slurm.toml").write_text(SWEEP.format(epochs=20_000))
    log = tmp_path / "launch.log"
    options = ("--backend", "slurm", "--workers", "2", "--lease", "6")  # agents say more often where they are
    watching = launcher(folder, home, slurm, log, "launch", "slurm.toml", *options)
    try:
        until(lambda: "slurm@" in log.read_text(), "the sweep is registered")
        until(lambda: past_the_first_steps(registry) == 8, "both agents train")
        ask(slurm, "scontrol", "update", "partition=main", "state=drain")  # nothing more is taken
        with registry() as opened:
            victim = opened.catalogue.agents()[0].pid
        pilot_of(victim).kill()
        os.kill(victim, signal.SIGKILL)
        until(lambda: "1 of 1 agents could not be submitted: Slurm took no array" in log.read_text(), "it is refused")
        assert len(elements(slurm)) == 1
        ask(slurm, "scontrol", "update", "partition=main", "state=up")
        until(lambda: len(elements(slurm)) == 2, "the dead one is replaced")
        watching.terminate()
        assert watching.wait(600) == 130
        assert "told to end, and its agents go on, with 0 of 8 jobs done" in log.read_text()
        assert len(elements(slurm)) == 2

        assert [(one["agents"], one["fleet"]) for one in starts(home)] == [(2, 2), (1, 2)]
        watching = launcher(folder, home, slurm, log, "resume", "slurm")
        until(lambda: "0/8 done" in log.read_text(), "it watches again")
        for one in elements(slurm):
            time.sleep(2.5)  # longer than an answer of Slurm's is good
            assert watching.poll() is None
            ask(slurm, "scancel", one)
        assert watching.wait(600) == 130
        assert "its agents were cancelled, with 0 of 8 jobs done; go on with: qsweep resume slurm@" in log.read_text()
        assert len(starts(home)) == 2, "nothing was submitted again"
    finally:
        watching.kill()
        watching.wait()
        ask(slurm, "scontrol", "update", "partition=main", "state=up")


@pytest.mark.usefixtures("held")
def test_a_node_that_dies_or_lacks_the_data_costs_no_job_and_a_batch_script_of_ones_own_goes_on(
    run: Run, home: Path, folder: Path, registry: Callable[[], Registry], slurm: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a set").touch()
    options = ("--backend", "slurm", "--workers", "1", "--slurm", "cpus_per_task=2", "--data", str(data), "--detach")
    options += ("--lease", "6", "--where", "width == 2")
    node = ask(slurm, "sinfo", "--noheader", "--partition=main", "--format=%n").strip()
    assert run("launch", "slurm.toml", *options).returncode == 0
    until(lambda: past_the_first_steps(registry) > 0, "the sweep is trained")
    (array,) = arrays(slurm)
    with registry() as opened:
        cores = pilot_of(opened.catalogue.agents()[0].pid).environ()["SLURM_CPUS_PER_TASK"]
    assert cores == "2"
    for state in ("drain", "down"):  # this Slurm takes a node that answers back at once, unless it is drained
        ask(slurm, "scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
    waiting = f"Slurm array {array}: 1 agent waiting for nodes that are down, drained or reserved"
    until(lambda: waiting in status(run)["remarks"], "it says that the node is down")
    (data / "a set").unlink()
    until(lambda: in_service(slurm) and not arrays(slurm), "the agent has left again", slurm=slurm)
    assert "the data sets are not here" in (home / "logs" / "slurm" / f"{array}_0_log.out").read_text()
    (failed,) = status(run)["remarks"]
    assert failed.startswith(f"Slurm array {array}: 1 agent failed; see ")
    assert max(one.attempt for one in attempts(registry)) == 1

    script = Path(__file__).parents[2] / "deploy" / "slurm" / "agents.sbatch"
    own = {"QSWEEP_HOME": str(home), "QSWEEP": SCRIPT, "SWEEP": "slurm", "QSWEEP_LEASE": "6"}
    output = f"--output={tmp_path / 'element-%a.log'}"
    ask(slurm | own, "sbatch", "--array=0-0", output, f"--chdir={folder}", str(script))
    until(lambda: max(one.attempt for one in attempts(registry)) == 2, "the script's agent has taken up the jobs")
    tried = attempts(registry)
    assert {one.failure_class for one in tried} <= {FailureClass.LOST, FailureClass.PREEMPTED, None}
    assert {(one.backend, one.resumed_from > 20) for one in tried if one.attempt == 2} == {("slurm", True)}


@pytest.mark.usefixtures("held")
def test_in_an_allocation_of_one_minute_an_agent_outlives_a_crash_and_the_allocations_end(
    run: Run, home: Path, folder: Path, registry: Callable[[], Registry], slurm: dict[str, str]
) -> None:
    (folder / "slurm.toml").write_text(SWEEP.format(epochs=20_000))
    options = ("--slurm", "time=1", "--slurm", "handover=35", "--limit", "2", "--detach")
    answer = run("launch", "slurm.toml", "--backend", "slurm", "--workers", "1", *options)
    assert answer.returncode == 0, answer.stderr
    until(lambda: past_the_first_steps(registry) == 2, "the jobs are trained")
    (array,) = arrays(slurm)
    (file,) = (home / "logs" / "slurm").glob(f"{array}_*log.out")
    again = "the agent ended with 1 and is started again"
    killed = set[int]()

    def outlived() -> bool:
        """It was started again in its allocation. One that is killed as it hands over isn't: then the next one is."""
        if again not in file.read_text() and past_the_first_steps(registry) == 2:
            with registry() as opened:
                for pid in {one.pid for one in opened.catalogue.agents()} - killed:
                    killed.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return again in file.read_text()

    until(outlived, "an agent outlives a crash", slurm=slurm)
    both = {FailureClass.CRASH, FailureClass.PREEMPTED}
    until(lambda: {one.failure_class for one in attempts(registry)} >= both, "they are taken up twice", slurm=slurm)
    assert max(one.resumed_from for one in attempts(registry)) > 20
    left = r"(60|5\d) s are left, the last 35 of them for the hand-over"
    for line in (left, "handed over on SIGUSR1, and requeued"):
        until(lambda line=line: re.search(line, file.read_text()), f"it is logged: {line}", slurm=slurm)
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


@pytest.mark.parametrize(
    ("options", "workers", "message"),
    [
        ({"clusters": "other"}, 2, "clusters can't be chosen: launch on a machine of that cluster"),
        ({"nodes": "2"}, 2, "nodes can't be chosen: an agent runs on one node"),
        ({"cpus_per_task": "many"}, 2, "cpus_per_task=many; a whole number"),
        ({"mem": "9000G"}, 2, "Requested node configuration is not available"),
        ({"partition": "wide", "gpus_per_task": "9"}, 2, "Requested node configuration is not available"),
        ({"partition": "wide", "gres": "gpu:9"}, 2, "Requested node configuration is not available"),
        ({"time": "soon"}, 2, "Invalid --time specification"),
        ({}, None, "how many agents are to be submitted"),
    ],
)
def test_a_check_says_what_is_wrong_with_a_request(
    options: dict[str, str],
    workers: int | None,
    message: str,
    slurm: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    with pytest.raises(InputError, match=re.escape(message)):
        SlurmBackend.from_options(options).check(Home.at(tmp_path), workers)


def test_a_machine_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InputError, match="there is no Slurm on this machine"):
        SlurmBackend.from_options({}).check(Home.at(tmp_path), 2)


def test_a_controller_that_does_not_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("sbatch") is None:
        pytest.skip("not installed: sbatch")
    nobody = tmp_path / "slurm.conf"
    nobody.write_text("ClusterName=gone\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=9\n")
    monkeypatch.setenv("SLURM_CONF", str(nobody))
    with pytest.raises(InputError, match="controller does not answer"):
        SlurmBackend.from_options({}).check(Home.at(tmp_path), 2)


def test_a_machine_that_is_told_to_use_other_clusters_is_refused(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    with pytest.raises(InputError, match="SLURM_CLUSTERS: agents are submitted, followed and cancelled"):
        SlurmBackend.from_options({}).check(Home.at(tmp_path), 2)


def test_a_launch_that_can_not_count_the_agents_that_are_there_starts_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Home.at(home)
    record(place, Start(backend="slurm", sweep=1, reference="7", agents=2))
    fleet = Fleet(home=place, workers=2, gpus=0, lease=30, scope=Scope(sweep=1), code="")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(commands.SlurmUnavailable, match="squeue is not found"):
        SlurmBackend.from_options({}).adopt(fleet)


def test_resume_asks_for_as_many_agents_as_the_whole_fleet_had() -> None:
    def start(agents: int, fleet: int = 0, backend: str = "slurm") -> Start:
        return Start(backend=backend, sweep=1, reference="7", agents=agents, fleet=fleet)

    split = [start(4, 5), start(1, 5), start(1, 5)]
    assert fleet_size(split, "slurm") == 5
    assert fleet_size([*split, start(3, 3), start(9, backend="ray")], "slurm") == 3
    assert fleet_size([start(4), start(1)], "slurm") == 4, "records that do not say it"
    assert fleet_size(split, "ray") is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("MaxArraySize            = 1001\nSchedulerParameters     = (null)", 1001),
        ("MaxArraySize            = 1001\nSchedulerParameters     = bf_interval=2,max_array_tasks=500", 500),
        ("MaxArraySize            = 100\nSchedulerParameters     = max_array_tasks=500,bf_interval=2", 100),
        ("MaxArraySize            = 0", 1),
        ("nothing of the kind", 1),
    ],
)
def test_the_size_of_an_array_has_two_limits(lines: str, expected: int) -> None:
    assert commands.array_limit(f"Configuration data\n{lines}\nSlurmUser = slurm(1)\n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:00", 60), ("0:07", 7), ("1:02:03", 3723), ("2-00:00:01", 172_801), ("UNLIMITED", None), ("INVALID", None)],
)
def test_slurms_durations_are_understood(text: str, expected: float | None) -> None:
    assert commands.seconds(text) == expected
