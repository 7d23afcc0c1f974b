"""Distortions run as children of trainings, and corrupted sets are written, as a user asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qsweep as api
from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from tests.conftest import Qsweep

TRAININGS = """
title = "Small models"
tables = ["table5"]
[fixed]
data = "digits"
model = "nin"
width = 8
depth = 1
channels_per_width = 1
optimizer = "sgd"
weight_decay = 1.0
epochs = 1
batch_size = 128

[axes]
bits = [32, 4]
learning_rate = [0.05, 100.0]
"""
DISTORTIONS = """
[[measures]]
measure = "distortion"
corruption = ["gaussian_noise", "frost"]
severity = [1, 5]
"""
IMAGES = 355


def sweep_file(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.slow
def test_distortions_are_added_to_a_finished_sweep_without_training_again(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    """One of the two learning rates lets its models diverge: their distortions end done and flagged."""
    trained = qsweep("launch", sweep_file(tmp_path, "trained", TRAININGS), "--workers", "1")
    assert trained.returncode == 0, trained.stderr
    data, sheet = tmp_path / "data", tmp_path / "sheet.png"
    written = qsweep("corruptions", "Digits", "--out", str(data / "Digits-C"), "--corruption", "gaussian_noise",
                     "--seed", "5", "--contact-sheet", str(sheet))  # fmt: skip
    assert written.returncode == 0, written.stderr
    assert written.stdout.split() == [str(data / "Digits-C"), str(sheet)]
    (data / "Digits-C" / "qsweep.json").unlink()  # else it would count as generated
    asked = sweep_file(tmp_path, "distorted", TRAININGS + DISTORTIONS)
    distorted = qsweep("launch", asked, "--workers", "1", "--data", str(data))
    assert distorted.returncode == 0, distorted.stderr
    assert "20 jobs: 16 new, 0 known, 4 shared" in distorted.stderr
    with Registry.open(f"sqlite:///{home / 'registry.db'}") as registry:
        attempts = {row.kind: row.attempt for row in registry.jobs(registry.find_sweep("distorted").id)}
    assert attempts == {"train": 1, "corrupt": 1}
    assert audit(Home.at(home)) == []
    runs, every = api.results("distorted", home=home), api.results("distorted", "distortions", home=home)
    lost = set(runs[runs.diverged].job)
    assert len(lost) == 2
    assert set(every[every.diverged].parent) == lost
    assert every[every.diverged].corrupted_loss.isna().all()
    rows = every[~every.diverged]
    assert len(rows) == 8
    joined = rows.merge(runs, left_on="parent", right_on="job", suffixes=("", "_run"))
    assert joined.clean_loss.tolist() == pytest.approx(joined.test_loss.tolist(), rel=1e-5)
    assert joined.train_loss.tolist() == pytest.approx(joined.train_loss_run.tolist(), rel=1e-5)
    assert rows.generalization_gap.tolist() == (rows.corrupted_loss - rows.train_loss).tolist()
    assert set(zip(rows.corruption, rows.source, rows.frost.fillna(""), strict=True)) == {
        ("gaussian_noise", "published", ""),
        ("frost", "generated", "synthetic"),
    }
    assert rows.groupby(["corruption", "severity"]).fingerprint.nunique().eq(1).all()
    gap = rows[(rows.bits == 4) & (rows.corruption == "frost")].generalization_gap.mean()
    line = next(one for one in distorted.stdout.splitlines() if "frost" in one)
    assert f"{gap:.3f}" in [cell.strip() for cell in line.split("|")]
    assert "Diverged and left out of the means" in distorted.stdout


def spoiled(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.zeros(5 * IMAGES, dtype=np.int64))
    np.save(folder / "frost.npy", np.zeros((IMAGES, 8, 8, 1), dtype=np.uint8))


def test_a_wrong_published_file_is_refused_before_anything_is_written(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    spoiled(tmp_path / "data" / "Digits-C")
    asked = sweep_file(tmp_path, "wrong", TRAININGS + DISTORTIONS)
    refused = qsweep("launch", asked, "--data", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert "frost.npy: this holds uint8 (355, 8, 8, 1), not uint8 (1775, 8, 8, 1)" in refused.stderr.replace("\n", " ")
    assert not home.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corruption=fogg", "'fogg' is not allowed"),
        ("severity=6", "allowed: 1, 2, 3, 4, 5"),
        ("measure_samples=356", "10 to 355 images of Digits"),
    ],
)
def test_a_wrong_distortion_is_refused_before_anything_is_written(
    here: Qsweep, home: Path, change: str, message: str
) -> None:
    refused = here("launch", "digits-distortion", "--set", change)
    assert refused.returncode == 2
    assert message in refused.stderr.replace("\n", " ")
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CIFAR-1000", "--out", "x"), "did you mean 'CIFAR-100'"),
        (("digits", "--out", "x", "--corruption", "zoomblur"), "did you mean 'zoom_blur'"),
        (("digits", "--out", "x", "--severity", "0"), "--severity: there is no severity 0; allowed: 1, 2, 3, 4, 5"),
        (("digits",), "say what to write"),
        (("digits", "--out", "x", "--size", "16"), "--size: these images have their size; allowed with imagenet alone"),
        (("digits", "--out", "/dev/null/x"), "this folder can't be written"),
        (("digits", "--out", "x", "--frost", "nowhere"), "nowhere: this folder can't be read"),
        (("imagenet", "--out", "x"), "there is no tree CLASS/FILE.JPEG of images here"),
    ],
)
def test_a_corrupted_set_that_can_not_be_written_is_refused(
    here: Qsweep, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = here("corruptions", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "here" / "x").exists()
