"""The built-in sweep of zero-shot quantization as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import SURROUNDINGS, Qsweep

CIFAR = Path(SURROUNDINGS.get("QSWEEP_DATA", os.devnull))
REDUCED = (
    "width=4", "epochs=2", "milestones=[1]", "val_fraction=0.9", "image_count=32", "image_batch=16", "image_seed=0",
    "image_iterations=20", "sharp_iterations=3", "unit_iterations=20", "measure_samples=100", "iterations=2",
    "copies=2", "ascent_steps=2",
)  # fmt: skip


@pytest.mark.slow
def test_blocks_beat_nearest_rounding_and_real_images_are_no_worse(qsweep: Qsweep) -> None:
    launched = qsweep("launch", "digits-zeroshot", "--where", "weight_bits == 2 and images != 'sadag'")
    assert launched.returncode == 0, launched.stderr
    asked = qsweep(
        "query", "SELECT images, rounding, test_accuracy AS a FROM quantizations", "--sweep", "digits-zeroshot",
        "--format", "json",
    )  # fmt: skip
    found = {(one["images"], one["rounding"]): one["a"] for one in json.loads(asked.stdout)}
    assert len(found) == 6
    for images in ("genie", "noise", "train"):
        assert found[images, "reconstruction"] >= found[images, "nearest"] + 0.08
    assert found["train", "reconstruction"] >= found["genie", "reconstruction"]
    table = qsweep("tables", "digits-zeroshot").stdout
    assert all(one in table for one in ("genie", "noise", "reconstruction", "nearest"))


@pytest.mark.slow
@pytest.mark.skipif(not (CIFAR / "cifar-100-python").is_dir(), reason="CIFAR-100 is not in QSWEEP_DATA")
def test_the_path_of_cifar_100_from_the_training_to_the_premise(qsweep: Qsweep) -> None:
    changes = [word for one in REDUCED for word in ("--set", one)]
    launched = qsweep(
        "launch", "zeroshot-cifar100", *changes, "--name", "small", "--where", "weight_bits == 3", "--data", str(CIFAR)
    )
    assert launched.returncode == 0, launched.stderr
    asked = qsweep(
        "query", "SELECT count(*) AS n, count(q.clean_accuracy) AS measured FROM measures AS q", "--sweep",
        "zeroshot-cifar100@small", "--format", "json",
    )  # fmt: skip
    assert json.loads(asked.stdout) == [{"n": 16, "measured": 16}]
    table = qsweep("tables", "zeroshot-cifar100@small", "--against-paper").stdout
    assert "CIFAR-100" in table
    assert "image_iterations 20 (4000)" in table
    analysis = qsweep("analyze", "zeroshot-cifar100@small").stdout
    assert "SADAG rests on it" in analysis
    assert "n = 8" in analysis
