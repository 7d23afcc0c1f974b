"""The door to machines that reach no registry: packed, worked off without any of qsweep's services, brought home."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, Qsweep, environment

pytestmark = pytest.mark.slow

LONG = (
    "digits-grid", "--set", "epochs=8", "--where",
    "width == 8 and depth == 2 and optimizer != 'rmsprop' and learning_rate == 0.005 and weight_decay < 0.00015",
)  # fmt: skip
"""16 jobs: more than one cohort."""
SHORT = (*LONG[:2], "epochs=1", "--where", f"{LONG[-1]} and optimizer == 'sgd' and weight_decay == 0")
"""4 jobs."""
MEASURED = """
title = "Two models and their flatness"
[fixed]
data = "digits"
model = "nin"
width = 2
depth = 1
channels_per_width = 2
optimizer = "sgd"
learning_rate = 0.05
weight_decay = 0.0
epochs = 2
batch_size = 128
[axes]
bits = [32, 4]
"""
MEASURES = """
[[measures]]
measure = "pac_bayes"
measure_samples = 200
copies = 2
iterations = 3
"""
FAR = {"torch", "numpy", "pyarrow"}
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r} or name in ("qsweep.orchestrator", "qsweep.reports"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
Far = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def absent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on whose account Python imports, of all that qsweep depends on, only torch, numpy and pyarrow, and
    of qsweep itself only what a bundle holds."""
    declared = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^a-z-]", one)[0] for one in declared} - FAR
    names = names - {"scikit-learn"} | {"sklearn"}
    assert {"sqlalchemy", "pydantic", "typer", "sklearn", "torchvision"} <= names
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=names))
    return folder


def python(folder: Path, absent: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """Python on such a machine, in this folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QSWEEP_")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment | {"PYTHONPATH": str(absent), "OMP_NUM_THREADS": "1", **extra},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def work_off(folder: Path, bundle: str, *options: str, **extra: str) -> subprocess.Popen[str]:
    """`python -m qsweep.workers` with the code that came along, in this folder."""
    return processes.start(
        [*processes.PYTHON, "qsweep.workers", bundle, *options],
        env=environment(folder, {"PYTHONPATH": str(folder / bundle / "code"), **extra}),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def bare(tmp_path: Path, absent: Path) -> Far:
    """Run Python on such a machine, in a folder where a test packs its bundles."""
    return partial(python, tmp_path, absent)


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """Work off a bundle's folder by the code in it."""
    return partial(work_off, tmp_path)


@pytest.fixture(scope="module")
def worked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home, the bundle `far` of 4 jobs that left it and was worked off, and its results.zip."""
    folder = tmp_path_factory.mktemp("worked")
    command = [*QSWEEP, "pack", *SHORT, "--out", str(folder / "far")]
    processes.run(command, env=environment(folder / "home"), capture_output=True, check=True, timeout=600)
    finish(work_off(folder, "far", "--results", "results.zip", "--workers", "1"))
    return folder


@pytest.fixture
def worked(worked_once: Path, tmp_path: Path) -> None:
    """The same in the test's own folder."""
    shutil.copytree(worked_once, tmp_path, symlinks=True, dirs_exist_ok=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    error = process.communicate(timeout=600)[1]
    assert process.returncode == code, error
    return error


def wait_for(path: Path, lines: int) -> None:
    """Until a ledger has so many lines."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not grow")


def events(home: Path) -> int:
    with Registry.open(Home.at(home).registry) as registry:
        return registry.history.newest_event()


def runs_of(home: Path, name: str = "digits-grid") -> pd.DataFrame:
    """What does not depend on when and where a job ran."""
    varying = ["seconds", "steps_per_second", "finished_at", "host", "attempt"]
    return api.results(name, home=home).drop(columns=varying).sort_values("job").reset_index(drop=True)


def kept(home: Path) -> dict[str, dict[str, Any]]:
    """The kept models by job."""
    with Registry.open(Home.at(home).registry) as registry:
        rows = registry.catalogue.jobs(registry.catalogue.sweeps()[0].id, state=State.DONE)
    return {row.identity: torch.load(home / "models" / str(row.model_file), weights_only=True) for row in rows}


def test_a_bundle_killed_twice_brings_home_the_same_bits_as_agents_here(
    qsweep: Qsweep, home: Path, bare: Far, tmp_path: Path
) -> None:
    assert qsweep("pack", *LONG, "--out", str(tmp_path / "far.zip")).returncode == 0
    steps = {"QSWEEP_CHECKPOINT_STEPS": "20"}
    first = bare("far.zip", "--workers", "2", **steps)
    wait_for(tmp_path / "far" / "checkpoints.jsonl", 16)
    agents = psutil.Process(first.pid).children()
    agents[0].kill()
    wait_for(tmp_path / "far" / "checkpoints.jsonl", 48)
    first.kill()
    first.communicate()
    half = qsweep("import", str(tmp_path / "far"))
    assert half.returncode == 0, half.stderr
    assert "16 still checked out" in half.stdout
    far = tmp_path / "far"
    left = [far / place / f".1.{'0' * 32}.tmp" for place in (".", "checkpoints", "models/deep", "results/runs")]
    for one in left:  # as what is killed in the midst of a write leaves it
        one.parent.mkdir(exist_ok=True)
        one.write_bytes(b"half")
    finish(bare("far", "--results", "results.zip", "--workers", "1", **steps))
    assert not any(one.exists() for one in left)
    log = "".join(path.read_text() for path in (tmp_path / "far" / "logs").glob("*.log"))
    resumed = [int(step) for step in re.findall(r"jobs from step (\d+)", log)]
    assert max(resumed) > 0
    assert "16 jobs counted" in qsweep("import", str(tmp_path / "results.zip")).stdout
    assert "the registry is sound" in qsweep("db", "check").stdout
    here = tmp_path / "here"
    local = qsweep("launch", *LONG, "--home", str(here))
    assert local.returncode == 0, local.stderr
    pd.testing.assert_frame_equal(runs_of(home), runs_of(here), check_exact=True)
    ours, theirs = kept(home), kept(here)
    assert ours.keys() == theirs.keys()
    for identity, model in ours.items():
        assert all(
            torch.equal(value, theirs[identity][name]) if isinstance(value, torch.Tensor) else True
            for name, value in model.items()
        )


@pytest.mark.usefixtures("worked")
def test_what_is_away_is_neither_run_nor_waited_for_and_comes_back_when_recalled(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    bundle = str(tmp_path / "far")
    status = json.loads(qsweep("status", "--json").stdout)
    assert [(one["name"], one["jobs"]) for one in status["bundles"]] == [("far", 4)]
    assert "none of the 4 jobs waits" in qsweep("pack", *SHORT, "--out", str(tmp_path / "more")).stderr
    assert not (tmp_path / "more").exists()
    launched = qsweep("launch", *SHORT, timeout=600)
    assert launched.returncode == 0, launched.stderr
    assert "4 jobs checked out to bundles" in launched.stderr

    assert "4 jobs queued again" in qsweep("recall", "far").stdout
    late = qsweep("import", bundle)
    assert "0 jobs counted" in late.stdout
    assert "4 refused" in late.stdout
    assert qsweep("launch", *SHORT, "--workers", "1").returncode == 0
    before = runs_of(home)
    assert "4 refused" in qsweep("import", bundle).stdout
    pd.testing.assert_frame_equal(before, runs_of(home))
    assert (api.results("digits-grid", home=home).attempt == 2).all()
    assert "the registry is sound" in qsweep("db", "check").stdout


def test_importing_twice_changes_nothing_and_keeps_where_it_was_computed(
    qsweep: Qsweep, home: Path, far: Far, tmp_path: Path
) -> None:
    qsweep("pack", *SHORT, "--out", str(tmp_path / "far"))
    finish(far("far", "--results", "results.zip", "--no-models", "--workers", "1"))
    first = qsweep("import", str(tmp_path / "results.zip"))
    assert "4 jobs counted" in first.stdout
    assert "4 of them without their models" in first.stdout
    mark = events(home)
    again = qsweep("import", str(tmp_path / "far"))
    assert "4 were counted before" in again.stdout
    assert events(home) == mark
    runs = api.results("digits-grid", home=home)
    manifest = json.loads((tmp_path / "far" / "bundle.json").read_text())
    began = json.loads((tmp_path / "far" / "ledger.jsonl").read_text().splitlines()[0].partition(" ")[2])
    assert set(runs.code.str.removesuffix(".dirty")) == {manifest["code"]}
    assert set(runs.host) == {began["host"]}
    assert set(runs.device) == {began["device"]}
    assert (runs.seconds > 0).all()
    assert json.loads(qsweep("status", "--json").stdout)["bundles"] == []
    job = runs.job.iloc[0]
    shown = json.loads(qsweep("show", job, "--json").stdout)
    assert shown["attempts"][0]["host"] == began["host"]
    assert "results counted" in qsweep("logs", job).stdout


@pytest.mark.usefixtures("worked")
def test_a_bundle_from_before_the_package_had_one_name_is_not_run_by_this_code(
    bare: Far, absent: Path, tmp_path: Path
) -> None:
    code = tmp_path / "far" / "code"
    newer = shutil.copytree(code, tmp_path / "newer")
    for room in (code / "qsweep").iterdir():
        room.rename(code / room.name)
    (code / "qsweep").rmdir()
    said = finish(bare("-m", "qsweep.workers", "far", PYTHONPATH=os.pathsep.join([str(newer), str(absent)])), 2)
    assert "packed by an older qsweep" in said
    assert "python " in said


def test_measures_travel_with_their_models_or_after_them(qsweep: Qsweep, home: Path, far: Far, tmp_path: Path) -> None:
    trained, measured = tmp_path / "trained.toml", tmp_path / "measured.toml"
    trained.write_text(MEASURED)
    measured.write_text(MEASURED + MEASURES)
    assert "with 4 jobs" in qsweep("pack", str(measured), "--out", str(tmp_path / "both")).stdout
    finish(far("both", "--workers", "1"))
    assert "4 jobs counted" in qsweep("import", str(tmp_path / "both")).stdout
    together = api.results("measured", "measures", home=home)

    other = str(tmp_path / "other")
    assert qsweep("launch", str(trained), "--home", other, "--workers", "1").returncode == 0
    assert "with 2 jobs" in qsweep("pack", str(measured), "--out", str(tmp_path / "after"), "--home", other).stdout
    finish(far("after", "--workers", "1"))
    assert "2 jobs counted" in qsweep("import", str(tmp_path / "after"), "--home", other).stdout
    after = api.results("measured", "measures", home=Path(other))
    assert len(together) == len(after) == 2
    assert dict(zip(together.job, together.radius, strict=True)) == dict(zip(after.job, after.radius, strict=True))
    assert (together.parent_attempt == 1).all()


def test_sigterm_checkpoints_and_the_same_command_goes_on(qsweep: Qsweep, home: Path, far: Far, tmp_path: Path) -> None:
    qsweep("pack", *LONG, "--out", str(tmp_path / "far"))
    steps = {"QSWEEP_CHECKPOINT_STEPS": "20"}
    first = far("far", "--workers", "1", **steps)
    wait_for(tmp_path / "far" / "checkpoints.jsonl", 12)
    first.terminate()
    assert "goes on from here" in finish(first, code=130)
    lines = (tmp_path / "far" / "checkpoints.jsonl").read_text().splitlines()
    stopped_at = json.loads(lines[-1].partition(" ")[2])["step"]
    finish(far("far", "--workers", "1"))
    log = "".join(path.read_text() for path in (tmp_path / "far" / "logs").glob("*.log"))
    assert f"jobs from step {stopped_at} of" in log
    assert "16 jobs counted" in qsweep("import", str(tmp_path / "far")).stdout
    assert "nothing to do" in finish(far("far"))


@pytest.mark.usefixtures("worked")
def test_a_bundle_that_is_not_what_it_was_is_refused_and_changes_nothing(
    qsweep: Qsweep, here: Qsweep, home: Path, far: Far, tmp_path: Path
) -> None:
    mark = events(home)

    def refused(name: str, damage: Callable[[Path], None], words: str) -> None:
        copy = tmp_path / name
        shutil.copytree(tmp_path / "far", copy)
        damage(copy)
        answer = here("import", str(copy))
        assert answer.returncode == 2, (name, answer.stdout)
        assert words in answer.stderr, (name, answer.stderr)
        assert events(home) == mark
        assert api.results("digits-grid", home=home).empty

    def any_of(folder: Path, pattern: str) -> Path:
        return sorted(folder.glob(pattern))[0]

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def better(folder: Path) -> None:
        """A loss made better, and written as a sound Parquet file."""
        path = any_of(folder, "results/runs/*")
        table = pq.read_table(path)
        place = table.column_names.index("test_loss")
        pq.write_table(table.set_column(place, table.schema.field(place), [[0.0] * len(table)]), path)

    refused("cut", lambda one: os.truncate(any_of(one, "results/runs/*"), 1000), "truncated or was altered")
    refused("better", better, "truncated or was altered")
    refused("gone", lambda one: any_of(one, "models/*/*").unlink(), "is not here")
    refused("model", lambda one: any_of(one, "models/*/*").write_bytes(b""), "truncated or was altered")
    refused("ledger", lambda one: replace(one / "ledger.jsonl", "false", "true"), "was altered")
    refused("jobs", lambda one: replace(one / "bundle.json", '"bits": 8', '"bits": 2'), "not what its identity says")
    refused("empty", lambda one: (one / "bundle.json").unlink(), "this is no bundle")
    os.truncate(tmp_path / "results.zip", 3000)
    cut = here("import", str(tmp_path / "results.zip"))
    assert cut.returncode == 2
    assert "truncated or damaged" in cut.stderr
    another = ("--home", str(tmp_path / "another"))
    assert qsweep("pack", *SHORT, "--limit", "1", "--out", str(tmp_path / "one"), *another).returncode == 0
    assert "another registry" in here("import", str(tmp_path / "far"), *another).stderr

    replace(any_of(tmp_path / "far", "code/qsweep/workers/cohort.py"), "The engine", "An engine")
    assert "the code of this bundle is not" in finish(far("far"), code=2)
    assert "4 jobs counted" in qsweep("import", str(tmp_path / "far")).stdout


def test_a_bundle_without_data_says_so_and_takes_it_from_a_folder(qsweep: Qsweep, far: Far, tmp_path: Path) -> None:
    qsweep("pack", *SHORT, "--out", str(tmp_path / "far.zip"))
    with zipfile.ZipFile(tmp_path / "far.zip") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]
        archive.extractall(tmp_path / "far")
    data = tmp_path / "given"
    (tmp_path / "far" / "data").rename(data)
    finish(far("far", "--data", str(data), "--workers", "1"))
    os.truncate(data / "digits.npz", 5000)
    shutil.rmtree(tmp_path / "far")
    with zipfile.ZipFile(tmp_path / "far.zip") as archive:
        archive.extractall(tmp_path / "far")
    missing = finish(far("far", "--data", str(data)), code=0)
    assert "4/4 done" in missing


def test_bad_input_is_refused_before_anything_is_held(here: Qsweep, home: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    for arguments, words in (
        (("--out", str(taken)), "exists already"),
        (("--out", str(tmp_path / "no" / "folder")), "can't be written"),
        (("--out", str(tmp_path / "far"), "--where", "bits == 5"), "none of the 972 jobs matches"),
    ):
        answer = here("pack", "digits-grid", *arguments)
        assert answer.returncode == 2
        assert words in answer.stderr
    assert not (home / "registry.db").exists()
    assert "there is no such bundle" in here("import", "nowhere.zip").stderr
