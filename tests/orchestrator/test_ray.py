"""Sweeps on a real Ray of two nodes: walked away from, robbed of actors, nodes and launcher, and finished."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import FailureClass
from qsweep.orchestrator.cluster import Node, Wanted, connect, nodes
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.memory import parse_memory
from tests.conftest import QSWEEP, Qsweep, environment
from tests.orchestrator import called, owned
from tests.orchestrator.conftest import Begin
from tests.orchestrator.ray_cluster import RayCluster, missing_ray

pytestmark = pytest.mark.slow

SWEEP = """
title = "Ray"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
depth = 2
weight_decay = 0.0
optimizer = "sgd"
epochs = 20
batch_size = 64
[axes]
width = [2, 3, 4, 5, 6]
bits = [32, 4]
learning_rate = [0.02]
"""
"""10 trainings in five cohorts."""
DECOYS = ("db", "workers", "sweeps", "reports", "orchestrator", "qsweep", "torch", "numpy", "ray")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of every command: full of decoys, and with the sweep file."""
    decoys = tmp_path / "decoys"
    for name in DECOYS:
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
        (decoys / f"{name}.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    (decoys / "mine.toml").write_text(SWEEP)
    return decoys


@pytest.fixture
def run(home: Path, folder: Path, tidy: None) -> Run:
    """Run `qsweep` among the decoys."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return processes.run(
            [*QSWEEP, *arguments],
            env=environment(home),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return call


def until(condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
    """What the condition answers, once it does. Fails after a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.2)
    return pytest.fail(f"not in {seconds:g} s: {what}")


def agents_at_work(home: Path) -> list[int]:
    """The process numbers of the agents that are past their first steps."""
    registry = Registry.open_if_present(home / "registry.db")
    if registry is None:
        return []
    with registry:
        return [agent.pid for agent in registry.catalogue.agents() if agent.note and json.loads(agent.note)["step"] > 5]


def actor_of(agent: int) -> psutil.Process:
    """Agent, supervisor, actor: the third in the line."""
    actor = psutil.Process(agent).parents()[1]
    assert "ray::RayAgent" in " ".join(actor.cmdline())
    return actor


def test_auto_where_no_ray_runs_is_refused(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing_ray()
    if any(one.info["name"] == "gcs_server" for one in psutil.process_iter(["name"])):
        pytest.skip("a Ray runs on this machine")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refused = run("launch", "mine.toml", "--backend", "ray", "--ray-address", "auto")
    assert refused.returncode == 2, refused.stderr
    assert "--ray-address auto: no Ray runs on this machine; HOST:PORT of a cluster" in refused.stderr
    assert not home.exists()


def test_actors_nodes_and_the_launcher_may_die_and_every_job_counts_once(
    cluster: RayCluster, begin: Begin, run: Run, home: Path, folder: Path
) -> None:
    arguments = ["launch", "mine.toml", "--backend", "ray", "--ray-address", cluster.address]
    arguments += ["--lease", "6"]
    with cluster.gate.held():
        launcher = begin(*arguments)
        until(lambda: len(agents_at_work(home)) == 2, "an agent at work on each core")  # and nobody said how many
        grown = cluster.add_node()
        agents = until(lambda: len(found := agents_at_work(home)) == 3 and found, "the third agent on the new node")
        with Registry.open(home / "registry.db") as registry:
            sweep = registry.catalogue.find_sweep("mine")
            environments = [psutil.Process(one).environ() for one in agents]
            assert all(str(home / "code" / sweep.code) in one["PYTHONPATH"] for one in environments)
            assert all(one["PYTHONSAFEPATH"] == "1" for one in environments)

            on_grown = [one for one in agents if grown in actor_of(one).parents()]
            elsewhere = [one for one in agents if one not in on_grown]
            assert len(on_grown) == 1
            launcher.kill()
            grown.kill()
            actor_of(elsewhere[0]).kill()
            launcher.communicate()
            for gone in (on_grown[0], elsewhere[0]):
                until(lambda gone=gone: not psutil.pid_exists(gone), "an agent without its actor leaves")
            crashed = elsewhere[1]
            actor = actor_of(crashed)
            psutil.Process(crashed).kill()
            until(
                lambda: any(one != crashed and actor in psutil.Process(one).parents() for one in agents_at_work(home)),
                "the actor of a crashed agent starts another one, without a launcher",
            )

    resumed = run("resume", "mine")
    assert resumed.returncode == 0, resumed.stderr
    assert "decoy" not in resumed.stderr
    ours = "some agents wait for room on the Ray cluster"
    assert "ray" not in resumed.stderr.replace(ours, "").lower()
    with Registry.open(home / "registry.db") as registry:
        assert registry.catalogue.counts(sweep.id).done == 10
        attempts = [one for row in registry.catalogue.jobs(sweep.id) for one in registry.history.attempts(row.id)]
        assert {one.backend for one in attempts} == {"ray"}
        ended = {one.failure_class for one in attempts}
        assert {FailureClass.PREEMPTED, FailureClass.CRASH} <= ended
        assert ended <= {None, FailureClass.PREEMPTED, FailureClass.LOST, FailureClass.CRASH}
        assert max(one.resumed_from for one in attempts) > 0
    runs = api.results("mine", home=home)
    assert len(runs) == runs.job.nunique() == 10
    assert {one.removesuffix(".dirty") for one in runs.code} == {sweep.code}

    called.write(folder)  # a function goes on from what it saved when its agent is killed
    launcher = begin("launch", "calls.toml", "--backend", "ray", "--ray-address", cluster.address, "--workers", "1")
    until((folder / "reached").exists, "the function waits")
    until(lambda: called.saved(Home.at(home)) == 2, "its agent has heard what it saved")
    with Registry.open(home / "registry.db") as registry:
        alive = [one.pid for one in registry.catalogue.agents() if psutil.pid_exists(one.pid)]
    for one in alive:
        psutil.Process(one).kill()
    (folder / "go").touch()
    assert launcher.wait(600) == 0
    tried = called.attempts(Home.at(home))[1]
    assert {one.backend for one in tried} == {"ray"}
    assert tried[-1].resumed_from >= 2
    assert api.query("SELECT x, loss FROM returned ORDER BY x", home=home).loss.tolist() == [0.25, 0.5, 1.0]
    assert run("db", "check").returncode == 0


def test_a_ray_of_our_own_outlives_its_launchers_and_ends_with_the_work(run: Run, home: Path, folder: Path) -> None:
    missing_ray()
    owned.write(folder)  # a module of the user's, and what it imports, come along
    for bits in (32, 4):
        options = ["--where", f"bits == {bits}", "--workers", "1", "--detach"]
        launched = run("launch", "own.toml", "--backend", "ray", *options)
        assert launched.returncode == 0, launched.stderr
        assert "1 agent started;" in launched.stderr  # one of the other selection would not do its work
    with Registry.open(home / "registry.db") as registry:
        sweep = registry.catalogue.find_sweep("own")
        until(lambda: registry.catalogue.counts(sweep.id).done == owned.JOBS, "the sweep finishes without its launcher")
    assert (api.results("own", home=home).test_accuracy > 0.5).all()
    again = run("resume", "own")
    assert again.returncode == 0, again.stderr
    assert "0 jobs to do" in again.stderr

    def keepers() -> list[psutil.Process]:
        return [one for one in psutil.process_iter() if str(home) in _environment(one).get("QSWEEP_REGISTRY", "")]

    until(lambda: not keepers(), "the Ray of our own ends")


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_ctrl_c_hands_back_what_ray_agents_hold(cluster: RayCluster, begin: Begin, home: Path) -> None:
    arguments = ["launch", "mine.toml", "--backend", "ray", "--ray-address", cluster.address, "--set", "epochs=2000"]
    launcher = begin(*arguments)
    agents = until(lambda: len(found := agents_at_work(home)) == 2 and found, "one agent a core at work")
    launcher.send_signal(signal.SIGINT)
    said = launcher.communicate(timeout=600)[1]
    assert launcher.returncode == 130, said
    assert "interrupted with 0 of 10 jobs done; go on with: qsweep resume mine@" in said
    until(lambda: not any(psutil.pid_exists(one) for one in agents), "the agents leave")
    with Registry.open(home / "registry.db") as registry:
        assert registry.catalogue.counts(registry.catalogue.find_sweep("mine").id).queued == 10


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--ray-address", "127.0.0.1:9"], "nothing answers there"),
        (["--ray-address", "elsewhere"], "no address of a Ray cluster"),
        (["--gpus-per-worker", "8"], "no node has 8 GPUs"),
        (["--memory-per-worker", "900TB"], "no node has 900000 GB of memory"),
        (["--memory-per-worker", "much"], "is no size"),
        (["--backend", "local", "--ray-address", "127.0.0.1:9"], "options of --backend ray"),
    ],
)
def test_what_ray_can_not_give_is_refused_before_anything_is_written(
    here: Qsweep, home: Path, folder: Path, options: list[str], problem: str
) -> None:
    missing_ray()
    refused = here("launch", str(folder / "mine.toml"), "--backend", "ray", *options)
    assert refused.returncode == 2, refused.stderr
    assert problem in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not home.exists()


def test_more_gpus_than_any_node_has_are_refused(cluster: RayCluster, run: Run, home: Path) -> None:
    options = ["--backend", "ray", "--ray-address", cluster.address, "--gpus-per-worker", "0.5"]
    refused = run("launch", "mine.toml", *options)
    assert refused.returncode == 2, refused.stderr
    assert "no node has 0.5 GPUs; allowed: up to 0" in refused.stderr
    assert not home.exists()


def test_without_ray_the_command_line_says_how_to_get_it(home: Path, folder: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; sys.argv = ['qsweep', *sys.argv[1:]]; "
        "from qsweep.orchestrator.cli import main; main()"
    )
    for command in (["launch", "mine.toml", "--backend", "ray"], ["tune", "mine.toml"]):
        refused = subprocess.run(
            [sys.executable, "-P", "-c", code, *command],
            cwd=folder,
            env=environment(home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2, refused.stderr
        assert "Ray is not installed here; install it with: pip install" in refused.stderr
        assert not home.exists()


def test_a_node_that_can_not_do_the_work_is_named(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All nodes are this machine. What one process sees and another does not is what lies below its own folder."""
    import ray

    from qsweep.orchestrator.backends.ray_nodes import check_nodes

    def check(**changes: Path | str) -> None:
        check_nodes(nodes(), replace(Home.at(tmp_path / "home"), **changes))

    for name in ("home", "data"):
        (tmp_path / name).mkdir()
    own, here = Path("/proc/self/cwd"), f"node {socket.gethostname()} can't run agents: it does not see"
    monkeypatch.chdir(tmp_path)
    connect(cluster.address)
    try:
        check(data=tmp_path / "data")
        check(data=tmp_path / "nowhere")  # where the launcher has none, no node needs any
        with pytest.raises(InputError, match=f"{here} {own}/home, where the home"):
            check(root=own / "home")
        with pytest.raises(InputError, match=f"{here} {own}/data, where the data sets are"):
            check(data=own / "data")
        (tmp_path / "registry.db").write_bytes(b"precious notes" * 100)
        with pytest.raises(InputError, match="not a database"):
            check(registry=f"sqlite:///{tmp_path}/registry.db")
    finally:
        ray.shutdown()
    assert not list(tmp_path.rglob(".qsweep-*"))


def test_auto_is_the_cluster_of_the_environment(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match=r"--ray-address 127\.0\.0\.1:9: nothing answers there"):
        connect("auto")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        assert connect("auto") == cluster.address
        assert len(nodes()) >= 2
    finally:
        ray.shutdown()


def test_agents_fit_a_node_by_its_scarcest_resource() -> None:
    node = Node(id="", host="a", cpus=8, gpus=2, memory=40e9)
    assert Wanted().on([node]).fit(node) == 2
    assert Wanted(gpus=0.5).on([node]).fit(node) == 4
    assert Wanted(gpus=0.1, cpus=0.5, memory="10GB").on([node]).fit(node) == 4
    assert Wanted(gpus=0, cpus=3).on([node]).fit(node) == 2
    with pytest.raises(InputError, match="no single node has all"):
        Wanted(gpus=1, memory="50GB").on([node, Node(id="", host="b", cpus=8, gpus=0, memory=60e9)])
    assert parse_memory("1.5 GB", place="") == 1.5e9
