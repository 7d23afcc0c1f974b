"""`qsweep landscape` as a user runs it: of kept models of a real sweep, interrupted and run again, and refused."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

import qsweep as api
from qsweep.db.registry import Registry
from qsweep.orchestrator.cli import app
from qsweep.reports.landscape.grid import METADATA
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError, QsweepError
from tests.conftest import QSWEEP, environment

SWEEP = """
title = "Two small models and a measure"

[fixed]
data = "digits"
model = "nin"
width = 8
depth = 1
channels_per_width = 1
optimizer = "sgd"
learning_rate = 0.05
weight_decay = 0.0
epochs = 2
batch_size = 128

[axes]
bits = [32, 4]

[[measures]]
measure = "pac_bayes"
measure_samples = 200
copies = 2
iterations = 1
"""
POINTS = ("--points", "5", "--workers", "1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished sweep whose models were kept."""
    folder = tmp_path_factory.mktemp("landscape")
    path = folder / "small.toml"
    path.write_text(SWEEP)
    command = [*QSWEEP, "launch", str(path), "--workers", "1"]
    processes.run(command, env=environment(folder / "home"), capture_output=True, check=True, timeout=6000)
    return folder / "home"


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def run(home: Path, *arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["landscape", *arguments], env={"QSWEEP_HOME": str(home), "QSWEEP_REGISTRY": None})


def job_of(home: Path, kind: str) -> str:
    with Registry.open(f"sqlite:///{home / 'registry.db'}") as registry:
        rows = registry.jobs(registry.find_sweep("small").id)
    return next(row.identity for row in rows if row.kind == kind)


def test_landscapes_of_a_sweep_are_files_with_their_provenance(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run(home, "small", *POINTS, "--out", str(out))
    assert answer.exit_code == 0, answer.output
    assert "2 landscapes of 25 points, 0 there already" in answer.stderr
    assert "cosine of d₁ and d₂" in answer.stderr
    runs = api.results("small", home=home).set_index("job")
    files = sorted((out / "grids").iterdir())
    assert [path.name.split("-")[0] for path in files] == ["FP32", "Int4"]
    for path in files:
        frame = pq.read_table(path).to_pandas()
        (job,) = set(frame.job)
        centre = frame[(frame.x == 0) & (frame.y == 0)].iloc[0]
        assert centre.loss == pytest.approx(runs.loc[job].train_loss, rel=1e-6)
        assert centre.accuracy == pytest.approx(runs.loc[job].train_accuracy)
        said = json.loads(pq.read_schema(path).metadata[METADATA])
        assert said["trainings"][0]["bits"] == runs.loc[job].bits
        assert (said["images"], said["landscape"]["points"]) == (1442, 5)
        assert (said["jobs"], said["attempts"]) == ([job], [1])
        assert (out / "vtp" / f"{path.stem}.vtp").is_file()
    printed = answer.stdout.split()
    assert len(printed) == 6 + 2
    assert all(Path(path).is_file() for path in printed)
    assert (out / "landscape.html").is_file()


def test_the_line_between_two_models_ends_at_their_losses(home: Path, tmp_path: Path) -> None:
    two = api.results("small", home=home).sort_values("bits")
    out = tmp_path / "out"
    answer = run(home, "--between", *two.job, *POINTS, "--out", str(out))
    assert answer.exit_code == 0, answer.output
    (path,) = (out / "grids").iterdir()
    frame = pq.read_table(path).to_pandas()
    assert list(frame.x) == [0, 0.25, 0.5, 0.75, 1]
    assert frame.y.isna().all()
    assert set(frame.precision) == {"Int4 → FP32"}
    assert [frame.loss[0], frame.loss[4]] == pytest.approx(list(two.train_loss), rel=1e-6)
    said = json.loads(pq.read_schema(path).metadata[METADATA])
    assert said["landscape"]["perturb"] == "quantized"
    assert not (out / "vtp").exists()


def test_an_interrupted_command_leaves_no_process_and_goes_on(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["small", "--line", "--points", "401", "--workers", "1", "--out", str(out)]
    process = processes.start(
        [*QSWEEP, "landscape", *arguments],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 600
    while not list((out / "grids").glob("*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=600)[1]
    assert "interrupted with 1 landscapes done; run the same command to resume" in said
    assert process.returncode == 130
    assert children
    assert psutil.wait_procs(children, timeout=600)[1] == []
    (written,) = (out / "grids").iterdir()
    before = written.stat().st_mtime_ns
    again = run(home, *arguments)
    assert again.exit_code == 0, again.output
    assert "2 landscapes of 401 points, 1 there already" in again.stderr
    assert written.stat().st_mtime_ns == before
    assert len(list((out / "grids").iterdir())) == 2


def test_a_damaged_model_is_named(home: Path, tmp_path: Path) -> None:
    (path, *_) = (home / "models").rglob("*.pt")
    job = path.name.split("-")[0]
    path.write_bytes(path.read_bytes()[:-1])
    answer = run(home, job, *POINTS, "--out", str(tmp_path / "out"))
    assert isinstance(answer.exception, QsweepError)
    assert f"{path} is damaged" in str(answer.exception)
    path.unlink()
    refused(home, tmp_path, job, said="the file of its model is not there")


def refused(home: Path, tmp_path: Path, *arguments: str, said: str) -> None:
    """The command says this, and writes nothing."""
    answer = run(home, *arguments, "--out", str(tmp_path / "none"))
    assert isinstance(answer.exception, InputError), answer.output
    assert said in str(answer.exception)
    assert not (tmp_path / "none").exists()


def test_what_has_no_landscape_is_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    train, measure = job_of(home, "train"), job_of(home, "measure")
    two = list(api.results("small", home=home).job)
    named = "name jobs or sweeps, or two jobs by --between"
    for arguments, said in (
        (("0123456789ab",), "there is no job '0123456789ab' here"),
        (("nothing",), "no sweep 'nothing' was launched here"),
        ((measure,), "a measure makes no model"),
        (("small", "--where", "bits == 8"), "no training is meant"),
        (("small", "--where", "bit == 8"), "'bit' is not a setting"),
        (("small", "--points", "10"), "an odd number"),
        (("small", "--samples", "5"), "allowed: 0 (all), or 10 to 1442 images"),
        ((), named),
        (("small", "--between", train, train), named),
        (("--between", train, train), "these are not two different jobs"),
        (("--between", train, train, "--line"), "has no direction to choose"),
        (("--between", *two, "--perturb", "latent"), "no common rounding"),
    ):
        refused(home, tmp_path, *arguments, said=said)
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE jobs SET model_file = NULL")
    refused(home, tmp_path, train, said='its model was not kept; launch a sweep with keep = "all" that holds it')
    refused(home, tmp_path, "small", said="no model was kept")
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE jobs SET state = 'queued'")
    refused(home, tmp_path, train, said="it is queued, and has no model yet")
    refused(home, tmp_path, "small", said="no training that is meant is done yet")
