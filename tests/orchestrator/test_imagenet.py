"""A sweep over a folder of image files from weights in a file, by the command line alone, with real agents."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.db.registry import Registry
from qsweep.sweeps.training import Training
from qsweep.workers.models.declaration import ConvLayout
from tests.conftest import Qsweep, environment
from tests.workers.folders import write_folder

pytestmark = pytest.mark.slow

SWEEP = """
title = "A folder of images"
tables = ["table1"]
[fixed]
{described}
model = "resnet"
stem = "large"
depth = 18
width = 2
weights = "mine"
optimizer = "sgd"
learning_rate = 0.01
weight_decay = 1e-4
epochs = {epochs}
batch_size = 8
augment = "resized-crop"
[axes]
bits = [32, 4]
[[measures]]
measure = "pac_bayes"
measure_samples = 12
m_from = "samples"
copies = 2
iterations = 2
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the data, with one set of images in it."""
    write_folder(tmp_path / "data" / "some")
    return tmp_path / "data"


def write_sweep(qsweep: Qsweep, data: Path, *, epochs: int = 1) -> Path:
    described = qsweep("images", str(data / "some"), "--size", "16")
    assert described.returncode == 0, described.stderr
    settings = tomllib.loads(described.stdout)
    assert (settings["data_classes"], settings["data_train"], settings["data_test"]) == (3, 24, 12)
    path = data.parent / "pictures.toml"
    path.write_text(SWEEP.format(described=described.stdout, epochs=epochs))
    return path


def write_weights(sweep: Path, file: Path, *, seed: int = 0) -> str:
    """Random weights for the sweep's network in a file; its hash."""
    settings = tomllib.loads(sweep.read_text())["fixed"] | {"bits": 32}
    one = Training.from_settings(settings)
    layout = ConvLayout(one.model.layers(one.data))
    torch.save(dict(layout.named(layout.initial_parameters(seed), layout.initial_statistics())), file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def kill_after_a_checkpoint(home: Path) -> None:
    """Kill the process of the only agent as soon as it has recorded a checkpoint."""
    deadline = time.monotonic() + 600
    with Registry.open(home / "registry.db") as registry:
        sweep = registry.catalogue.find_sweep("pictures")
        while not any(row.progress for row in registry.catalogue.jobs(sweep.id)):
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
        (agent,) = registry.catalogue.agents()
        os.kill(agent.pid, signal.SIGKILL)


def rows(qsweep: Qsweep, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(qsweep("query", text, "--format", "json").stdout)
    return found


def test_from_the_folder_and_the_weights_to_the_table(qsweep: Qsweep, data: Path, home: Path, tmp_path: Path) -> None:
    sweep = write_sweep(qsweep, data)
    launch = ("launch", str(sweep), "--data", str(data), "--workers", "1", "--where", "bits == 4")
    missing = qsweep(*launch)
    assert missing.returncode == 2
    assert "the weights 'mine' are missing for resnet-18x2-large for 3 classes" in missing.stderr
    assert not home.exists()
    digest = write_weights(sweep, tmp_path / "weights.pth")
    answer = qsweep(*launch, "--weights", str(tmp_path / "weights.pth"))
    assert answer.returncode == 0, answer.stderr
    assert "| some " in answer.stdout
    found = rows(qsweep, "SELECT bits, weights, weights_hash, train_loss FROM runs")
    assert {(row["weights"], row["weights_hash"]) for row in found} == {("mine", digest)}
    assert [row["bits"] for row in found] == [4]
    assert {row["m"] for row in rows(qsweep, "SELECT m FROM measures")} == {12}
    write_weights(sweep, tmp_path / "other.pth", seed=1)
    other = qsweep(*launch, "--set", "epochs=2", "--weights", str(tmp_path / "other.pth"))
    assert other.returncode == 2
    assert "holds other weights than this home keeps as 'mine'" in other.stderr


def test_weights_travel_in_a_bundle_to_where_the_images_are(
    qsweep: Qsweep, data: Path, home: Path, tmp_path: Path
) -> None:
    sweep, far = write_sweep(qsweep, data), tmp_path / "far"
    digest = write_weights(sweep, tmp_path / "weights.pth")
    pack = ("pack", str(sweep), "--out", str(far), "--limit", "1")
    missing = qsweep(*pack)
    assert missing.returncode == 2
    assert "the weights 'mine' are missing for resnet-18x2-large for 3 classes" in missing.stderr
    assert not home.exists()
    packed = qsweep(*pack, "--weights", str(tmp_path / "weights.pth"))
    assert packed.returncode == 0, packed.stderr
    assert "--data DIR, which holds some" in packed.stdout
    (copy,) = (far / "weights").rglob("*.pth")
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == digest
    command = [sys.executable, str(far), "--data", str(data), "--workers", "1"]
    subprocess.run(command, env=environment(tmp_path / "nowhere"), cwd=tmp_path, check=True, capture_output=True)
    assert "1 job counted" in qsweep("import", str(far)).stdout
    (run,) = rows(qsweep, "SELECT weights_hash, diverged FROM runs")
    assert run == {"weights_hash": digest, "diverged": False}


def test_an_image_that_cannot_be_decoded_fails_the_job_by_its_name(qsweep: Qsweep, data: Path, tmp_path: Path) -> None:
    broken = data / "some" / "train" / "bee" / "3.JPEG"
    broken.write_bytes(broken.read_bytes()[:150])
    sweep = write_sweep(qsweep, data)
    write_weights(sweep, tmp_path / "weights.pth")
    launch = ("launch", str(sweep), "--data", str(data), "--workers", "1", "--weights", str(tmp_path / "weights.pth"))
    answer = qsweep(*launch, "--limit", "1")
    assert answer.returncode == 1
    (failed,) = rows(qsweep, "SELECT failure_class, error FROM jobs WHERE state = 'failed' AND kind = 'train'")
    assert failed["failure_class"] == "input"
    assert f"{broken}: this image can't be decoded" in failed["error"]


def test_a_killed_training_ends_with_the_numbers_of_one_that_was_not(
    qsweep: Qsweep, data: Path, home: Path, tmp_path: Path
) -> None:
    sweep = write_sweep(qsweep, data, epochs=20)
    write_weights(sweep, tmp_path / "weights.pth")
    launch = ("launch", str(sweep), "--data", str(data), "--workers", "1", "--weights", str(tmp_path / "weights.pth"))
    select = ("--where", "bits == 4", "--limit", "1")
    often = {"QSWEEP_CHECKPOINT_STEPS": "3"}
    assert qsweep(*launch, *select, "--detach", environment=often).returncode == 0
    kill_after_a_checkpoint(home)
    assert qsweep("resume", "pictures", "--data", str(data), "--workers", "1").returncode == 0
    text = "SELECT train_loss, test_loss, distance FROM runs"
    ended = rows(qsweep, text)
    assert any(row["resumed_from"] for row in rows(qsweep, "SELECT resumed_from FROM attempts"))
    fresh = {"QSWEEP_HOME": str(tmp_path / "fresh")}
    assert qsweep(*launch, *select, environment=fresh).returncode == 0
    whole = json.loads(qsweep("query", text, "--format", "json", environment=fresh).stdout)
    assert ended == whole
