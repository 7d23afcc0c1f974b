"""Tuning by real Ray Tune: every trial is a job of the registry, and test data never chooses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import FailureClass, State, SweepState
from qsweep.orchestrator.selection import read_selection
from qsweep.orchestrator.tuning.run import _interrupts
from qsweep.orchestrator.tuning.space import Space, drawn_jobs
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.tuning import METRICS, Mode, Scheduler, Search, Tuning, check_metric
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import load
from qsweep.workers.forms import Form
from tests.conftest import QSWEEP, Qsweep, environment
from tests.db.conftest import agent_info, claim
from tests.orchestrator.conftest import Begin
from tests.orchestrator.ray_cluster import RayCluster, missing_ray

SWEEP = """
title = "Tuned"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
width = 2
channels_per_width = 2
depth = 2
weight_decay = 0.0
epochs = 9
batch_size = 64
[axes]
optimizer = ["sgd", "adam"]
bits = [32, 4]
[axes.learning_rate]
by = "optimizer"
sgd = [0.05, 0.0005]
adam = [0.01]
"""
"""6 trainings, some of them hopeless."""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "tuned.toml").write_text(SWEEP)
    return folder


@pytest.fixture
def run(home: Path, folder: Path, tidy: None) -> Run:
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


def rows_of(registry: Registry, name: str = "tuned+tune") -> dict[str, JobRow]:
    return {row.identity: row for row in registry.catalogue.jobs(registry.catalogue.find_sweep(name).id)}


@pytest.mark.slow
def test_asha_stops_trials_that_keep_what_they_have_and_go_on_when_a_sweep_wants_them_whole(
    cluster: RayCluster, run: Run, home: Path
) -> None:
    arguments = ["tune", "tuned.toml", "--metric", "val_loss", "--scheduler", "asha", "--ray-address", cluster.address]
    tuned = run(*arguments)
    assert tuned.returncode == 0, tuned.stderr
    assert "note: val_fraction = 0.1" in tuned.stderr
    assert "**Best trials by val_loss**" in tuned.stdout
    assert "**Best trial of each precision by val_loss**" in tuned.stdout
    assert "test" not in tuned.stdout
    assert "ray" not in tuned.stderr.lower()

    with Registry.open(home / "registry.db") as registry:
        sweep = registry.catalogue.find_sweep("tuned+tune")
        assert (sweep.state, sweep.reason) == (SweepState.PAUSED, "its tuning is over")
        rows = rows_of(registry)
        done = [row for row in rows.values() if row.state is State.DONE]
        stopped = [row for row in rows.values() if row.state is State.CANCELLED]
        assert len(done) + len(stopped) == len(rows) == 6
        assert done
        assert stopped
        reports = registry.trials.reports([row.id for row in rows.values()])
        for row in stopped:
            assert row.failure_class is FailureClass.STOPPED
            assert row.epoch in (1, 3)
            assert [one["epoch"] for one in reports[row.id]] == list(range(1, row.epoch + 1))
            saved = list((home / "checkpoints" / row.identity).glob("*.pt"))
            assert saved
        told = {row.identity: [one["val_loss"] for one in reports[row.id]] for row in rows.values()}
        listed = run("jobs", "tuned+tune").stdout
        assert f"cancelled (stopped at epoch {stopped[0].epoch})" in listed

        again = run(*arguments)
        assert again.returncode == 0, again.stderr
        assert again.stdout == tuned.stdout
        assert {row.identity: row.attempt for row in rows_of(registry).values()} == {
            row.identity: row.attempt for row in rows.values()
        }

        whole = run("launch", "tuned.toml", "--set", "val_fraction=0.1", "--workers", "1")
        assert whole.returncode == 0, whole.stderr
        assert "6 jobs: 0 new, 0 known, 6 shared with other sweeps" in whole.stderr
        last = {row.identity: registry.history.attempts(row.id)[-1] for row in rows_of(registry).values()}
        assert all(last[row.identity].resumed_from == row.progress > 0 for row in stopped)
        assert all(last[row.identity].attempt == row.attempt for row in done)

    runs = api.results("tuned+tune", home=home).set_index("job")
    epochs = api.results("tuned+tune", "epochs", home=home)
    assert sorted(runs.index) == sorted(rows)
    for job, values in told.items():
        assert epochs[epochs.job == job].val_loss.tolist()[: len(values)] == values
    one = stopped[0]
    form, slots = Form(runs.form[one.identity]), int(runs.slots[one.identity])
    images = load(one.job.training.data, None, download=False)
    alone = Cohort([one.job.training], images, slots=slots, form=form, device=torch.device("cpu"))
    while not alone.finished:
        alone.step()
    assert alone.results()[0].run["val_loss"] == runs.val_loss[one.identity]


@pytest.mark.slow
@pytest.mark.fault
def test_a_tuning_by_optuna_survives_kill_9_of_an_actor_ctrl_c_and_kill_9_of_its_driver(
    cluster: RayCluster, begin: Begin, run: Run, home: Path
) -> None:
    arguments = ["tune", "tuned.toml", "--search", "optuna", "--scheduler", "none", "--samples", "3", "--lease", "6"]
    arguments += ["--ray-address", cluster.address, "--set", "epochs=60"]
    driver = begin(*arguments)
    until(lambda: _reported(home) > 5, "a few epochs")
    with Registry.open(home / "registry.db") as registry:
        sweep = registry.catalogue.find_sweep("tuned+tune")
        victim, *_ = (
            row for row in registry.catalogue.jobs(sweep.id, state=State.RUNNING) if registry.trials.reports([row.id])
        )
        agent = next(
            one for one in registry.catalogue.agents() if one.id == registry.history.attempts(victim.id)[-1].agent_id
        )
        actor = psutil.Process(agent.pid).parents()[1]
        assert "ray::" in actor.cmdline()[0]
        actor.kill()
        until(
            lambda: registry.history.attempts(victim.id)[0].failure_class,
            "an agent without its actor hands its job back",
        )
        known = len(registry.trials.reports([victim.id])[victim.id])
        until(lambda: len(registry.trials.reports([victim.id])[victim.id]) > known, "another actor goes on")

        driver.send_signal(signal.SIGINT)
        said = driver.communicate(timeout=600)[1]
        assert driver.returncode == 130, said
        assert "go on with: qsweep resume tuned+tune@" in said
        sweep = registry.catalogue.find_sweep("tuned+tune")
        assert (sweep.state, sweep.reason) == (SweepState.PAUSED, "its tuning was interrupted")
        assert registry.catalogue.counts(sweep.id).running == 0
        begun = {row.id: row.progress for row in registry.catalogue.jobs(sweep.id, state=State.QUEUED)}
        assert begun

        known = _reported(home)
        driver = begin("resume", "tuned+tune", "--ray-address", cluster.address, "--lease", "6")
        until(lambda: _reported(home) > known + 5, "a few epochs more, from the registry alone")
        agents = [one.pid for one in registry.catalogue.agents()]
        driver.kill()
        until(lambda: not any(psutil.pid_exists(one) for one in agents), "no agent outlives its tuning")

        again = run(*arguments)
        assert again.returncode == 0, again.stderr
        assert "3/3 trials ended, 0 of them early" in again.stderr
        rows = rows_of(registry)
        assert {row.state for row in rows.values()} == {State.DONE}
        assert 1 <= len(rows) <= 3
        attempts = {row.id: registry.history.attempts(row.id) for row in rows.values()}
    assert all(steps in {one.resumed_from for one in attempts[number]} for number, steps in begun.items())
    assert attempts[victim.id][0].failure_class is FailureClass.PREEMPTED
    for *before, last in attempts.values():
        assert last.failure_class is None
        assert {one.failure_class for one in before} <= {FailureClass.PREEMPTED, FailureClass.LOST}
    runs, epochs = api.results("tuned+tune", home=home), api.results("tuned+tune", "epochs", home=home)
    assert sorted(runs.job) == sorted(rows)
    assert all(epochs[epochs.job == job].epoch.tolist() == list(range(1, 61)) for job in rows)
    assert run("db", "check").returncode == 0


FUNCTION = """
def train(run, *, lr: float):
    step, loss = run.restored or (0, 1.0)
    while step < 27:
        step, loss = step + 1, loss * (1 - lr)
        run.log(step, loss=loss)
        run.save((step, loss))
        if run.should_stop:
            return None
    return {"loss": loss}
"""
RATES = (0.5, 0.1, 0.01, 0.001)


@pytest.mark.slow
def test_a_function_of_a_user_is_tuned_and_goes_on_when_it_is_wanted_whole(
    cluster: RayCluster, run: Run, home: Path, folder: Path
) -> None:
    (folder / "train.py").write_text(FUNCTION)
    (folder / "mine.toml").write_text(f'run = "file:train.py:train"\n[axes]\nlr = {list(RATES)}\n')
    tuned = run("tune", "mine.toml", "--metric", "loss", "--ray-address", cluster.address)
    assert tuned.returncode == 0, tuned.stderr
    assert "**Best trials by loss**" in tuned.stdout
    with Registry.open(home / "registry.db") as registry:
        states = {row.job.settings()["lr"]: row.state for row in rows_of(registry, "mine+tune").values()}
    assert set(states.values()) == {State.DONE, State.CANCELLED}, "some were stopped early"
    assert states[0.5] is State.DONE
    whole = run("launch", "mine.toml", "--workers", "1")
    assert whole.returncode == 0, whole.stderr
    assert "4 shared with other sweeps" in whole.stderr
    expected = []
    for lr in RATES:
        loss = 1.0
        for _ in range(27):
            loss *= 1 - lr
        expected.append(loss)
    found = api.query("SELECT lr, loss FROM returned ORDER BY lr DESC", sweep="mine", home=home)
    assert found.loss.tolist() == expected


@pytest.mark.slow
def test_a_tuning_whose_trial_failed_says_so_and_ends_with_1(
    cluster: RayCluster, run: Run, home: Path, folder: Path
) -> None:
    (job, *_) = read_selection(str(folder / "tuned.toml"), changes=["val_fraction=0.1"]).jobs
    Home.at(home).prepare()
    with Registry.open(home / "registry.db", create=True) as registry:
        sweep, agent = (
            registry.sweeps.add(name="other", label="a", spec="{}", size=1),
            registry.agents.enlist(agent_info()),
        )
        registry.sweeps.register(sweep.id, [job])
        registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.TIMEOUT, "too long")
        registry.agents.retire(agent)
    tuned = run("tune", "tuned.toml", "--samples", "1", "--ray-address", cluster.address)
    assert tuned.returncode == 1, tuned.stderr
    assert f"job {job.identity[:12]} failed: timeout" in tuned.stderr
    assert "1 job failed; see: qsweep jobs tuned+tune@" in tuned.stderr
    assert "**Best trials by val_loss**" in tuned.stdout


def test_a_ctrl_c_whose_exception_was_lost_is_heard_at_the_next_step() -> None:
    missing_ray()
    from qsweep.orchestrator.tuning.news import News

    before = signal.getsignal(signal.SIGINT)
    with _interrupts() as interrupts:
        news = News(Console(), "tuned", Tuning(metric="val_loss"), 1, interrupts)
        news.on_step_begin(1, [])
        with contextlib.suppress(KeyboardInterrupt):  # as something within Tune did once
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            pytest.fail("the signal did not come")
        with pytest.raises(KeyboardInterrupt):
            news.on_step_begin(2, [])
    assert signal.getsignal(signal.SIGINT) is before


def _reported(home: Path) -> int:
    registry = Registry.open_if_present(home / "registry.db")
    if registry is None:
        return 0
    with registry:
        sweeps = registry.catalogue.sweeps()
        numbers = [row.id for row in registry.catalogue.jobs(sweeps[0].id)] if sweeps else []
        return sum(len(one) for one in registry.trials.reports(numbers).values())


def until(condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.2)
    return pytest.fail(f"not in {seconds:g} s: {what}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--metric", "test_loss"], "test data never chooses, and test_loss is measured on it"),
        (["--metric", "test_accuracy"], "test data never chooses"),
        (["--metric", "generalization_gap"], "test data never chooses"),
        (["--metric", "val_los"], "'val_loss'"),
        (["--metric", "val_accuracy", "--mode", "min"], "min would choose the worst val_accuracy; allowed: max"),
        (["--set", "val_fraction=0"], "val_loss needs a validation split"),
        (["--where", "bits == 7"], "none of the 6 jobs matches"),
        (["--ray-address", "127.0.0.1:9"], "nothing answers there"),
    ],
)
def test_a_tuning_that_makes_no_sense_is_refused_before_anything_is_written(
    here: Qsweep, home: Path, folder: Path, options: list[str], problem: str
) -> None:
    missing_ray()
    refused = here("tune", str(folder / "tuned.toml"), *options)
    assert refused.returncode == 2, refused.stderr
    assert problem in refused.stderr
    assert not home.exists()


def test_every_metric_of_the_test_set_is_refused() -> None:
    from qsweep.db.schema import EPOCH, RUN

    measured = {field.name for field in (*RUN, *EPOCH)}
    assert set(METRICS) <= measured
    for name in measured - set(METRICS):
        with pytest.raises(InputError):
            check_metric(name, None)
    assert check_metric("val_loss", None) is Mode.MIN
    assert check_metric("val_accuracy", Mode.MAX) is Mode.MAX


def test_optuna_proposes_nothing_but_points_of_the_grid(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (tmp_path / "tuned.toml").write_text(SWEEP)
    spec = read_sweep(str(tmp_path / "tuned.toml"))
    jobs = [job for job in spec.jobs() if job.settings()["bits"] == 4]
    space = Space(spec, jobs)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    seen = set()
    for number in range(30):
        trial = study.ask()
        chosen = space(trial)["job"]
        job = next(one for one in jobs if one.to_json() == chosen)
        assert space.parameters(job) == trial.params
        study.tell(trial, number)
        seen.add(job.identity)
    assert seen == {job.identity for job in jobs}


def test_a_random_search_draws_each_job_once_by_its_seed(tmp_path: Path) -> None:
    (tmp_path / "tuned.toml").write_text(SWEEP)
    jobs = read_sweep(str(tmp_path / "tuned.toml")).jobs()

    def drawn(**changes: Any) -> list[str]:
        return [job.identity for job in drawn_jobs(jobs, Tuning(search=Search.RANDOM, **changes))]

    assert drawn(samples=4) == drawn(samples=4)
    assert len(set(drawn(samples=4))) == 4
    assert drawn(samples=6) != drawn(samples=6, seed=1)
    assert sorted(drawn(samples=100)) == sorted(job.identity for job in jobs)
    assert drawn_jobs(jobs, Tuning(search=Search.GRID, samples=2)) == jobs[:2]


def test_the_rungs_are_those_of_asha() -> None:
    missing_ray()
    from ray.tune.schedulers.async_hyperband import _Bracket

    tuning = Tuning(grace=2, reduction=3)
    bracket = _Bracket(min_t=2, max_t=100, reduction_factor=3, s=0)
    rungs = sorted(rung for rung, _ in bracket._rungs)
    assert tuning.rungs(100) == rungs
    assert Tuning(scheduler=Scheduler.NONE).rungs(100) == []


def test_a_tuning_comes_back_from_the_registry_as_it_went_in(tmp_path: Path) -> None:
    from dataclasses import replace

    from qsweep.sweeps.spec import Spec

    (tmp_path / "tuned.toml").write_text(SWEEP)
    plain = read_sweep(str(tmp_path / "tuned.toml"))
    spec = replace(plain, tuning=Tuning(search=Search.OPTUNA, samples=5, where="bits == 4"))
    assert Spec.from_json(spec.to_json(), place=spec.place).tuning == spec.tuning
    assert "tuning" not in json.loads(plain.to_json())
