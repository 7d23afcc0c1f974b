"""Exported runs are read back by the trackers' own readers, with the parameters, history and metrics of the jobs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qsweep.reports.formats import Tracker
from qsweep.reports.trackers import export_to
from qsweep.reports.trackers.run import TrackedRun, tracked_runs
from qsweep.sweeps.errors import InputError
from tests.reports.made import Made, finished, home_at, sources

pytestmark = pytest.mark.slow


def needs(library: str) -> None:
    """Skips visibly, unless this run has to cover the trackers."""
    if importlib.util.find_spec(library) is None:
        if "trackers" in os.environ.get("QSWEEP_REQUIRE", ""):
            pytest.fail(f"QSWEEP_REQUIRE asks for trackers: {library} is not installed")
        pytest.skip(f"{library} is not installed")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return finished(home_at(tmp_path), cohorts=2, diverged=(2,))


def exported(made: Made, tracker: Tracker, folder: Path) -> list[TrackedRun]:
    with sources(made) as (source,):
        assert export_to(tracker, source, folder) == 8
        return list(tracked_runs(source))


def test_a_run_has_what_its_job_has(made: Made) -> None:
    with sources(made) as (source,):
        runs = list(tracked_runs(source))
    for run, row in zip(runs, made.rows["runs"], strict=True):
        assert run.job == row["job"]
        assert run.parameters["bits"] == row["bits"]
        assert run.metrics.get("test_loss") == row["test_loss"]
        assert run.tags["qsweep.code"] == "1.0+made"
    assert runs[2].tags["qsweep.diverged"] == "True"
    assert [sorted(values) for _, values in runs[2].history] == [["learning_rate"]] * 3
    mine = [row for row in made.rows["epochs"] if row["job"] == runs[0].job]
    assert [(epoch, values["train_loss"]) for epoch, values in runs[0].history] == [
        (row["epoch"], row["train_loss"]) for row in mine
    ]


def test_tensorboard_reads_curves_metrics_and_parameters(made: Made, tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for run in exported(made, Tracker.TENSORBOARD, tmp_path / "out"):
        events = EventAccumulator(str(tmp_path / "out" / run.job))
        events.Reload()
        for name, value in run.metrics.items():
            (scalar,) = events.Scalars(name)
            assert scalar.value == pytest.approx(value, rel=1e-6)
        curve = [(one.step, one.value) for one in events.Scalars("epoch/learning_rate")]
        assert curve == [(epoch, pytest.approx(0.01)) for epoch in (1, 2, 3)]
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        parameters = HParamsPluginData.FromString(content).session_start_info.hparams
        assert parameters["bits"].number_value == run.parameters["bits"]
        assert parameters["optimizer"].string_value == run.parameters["optimizer"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its use of SQLAlchemy
def test_mlflow_finds_one_run_a_job(made: Made, tmp_path: Path) -> None:
    needs("mlflow")
    runs = exported(made, Tracker.MLFLOW, tmp_path / "out")
    script = f"""
import json
from mlflow import MlflowClient
client = MlflowClient(tracking_uri="sqlite:///{tmp_path / "out" / "mlflow.db"}")
found = client.search_runs([client.get_experiment_by_name("{made.sweep.title}").experiment_id])
print(json.dumps([[one.data.tags["qsweep.job"], one.data.params["bits"], one.data.metrics.get("test_loss"),
    [[m.step, m.value] for m in client.get_metric_history(one.info.run_id, "epoch/train_loss")],
    one.info.status] for one in found]))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = {job: rest for job, *rest in json.loads(answer.stdout.splitlines()[-1])}
    assert len(found) == 8
    for run in runs:
        history = [[epoch, values["train_loss"]] for epoch, values in run.history if "train_loss" in values]
        assert found[run.job] == [str(run.parameters["bits"]), run.metrics.get("test_loss"), history, "FINISHED"]


def test_wandb_writes_offline_runs_and_looks_up_no_name(made: Made, tmp_path: Path) -> None:
    needs("wandb")
    script = f"""
import socket, sys
def refuse(*arguments, **options):
    print("LOOKED UP", arguments[0], flush=True)
    raise OSError("no network")
socket.getaddrinfo = refuse
from qsweep.orchestrator.cli import main
sys.argv = ["qsweep", "--home", "{made.home.root}", "export", "made", "--out", "{tmp_path / "out"}", "--to", "wandb-offline"]
main()
"""  # noqa: E501
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "LOOKED UP" not in answer.stdout
    folders = list((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert {folder.name.rpartition("-")[2] for folder in folders} == {row["job"] for row in made.rows["runs"]}
    for row in made.rows["runs"]:
        (file,) = (tmp_path / "out").rglob(f"run-{row['job']}.wandb")
        content = file.read_bytes()
        assert b"learning_rate" in content
        if not row["diverged"]:
            assert repr(row["test_loss"]).encode() in content


def test_an_export_needs_a_new_folder(made: Made, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="this is there already"):
        exported(made, Tracker.TENSORBOARD, tmp_path / "out")


def test_a_missing_library_is_named_with_its_extra(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "qsweep.reports.trackers.wandb", raising=False)
    with pytest.raises(InputError, match=r"pip install 'qsweep\[wandb\]'"):
        exported(made, Tracker.WANDB, tmp_path / "out")
    assert not (tmp_path / "out").exists()
