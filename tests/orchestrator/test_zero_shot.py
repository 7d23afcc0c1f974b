"""The built-in sweeps of zero-shot quantization as a user runs them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Qsweep

pytestmark = pytest.mark.slow
UNMEASURED = "and not measure in ['pac_bayes', 'sharpness']"


def rows(qsweep: Qsweep, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(qsweep("query", text, "--format", "json").stdout)
    return found


def settings(**given: object) -> list[str]:
    """Options that change these settings."""
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


def test_blocks_beat_nearest_rounding_and_real_images_are_no_worse(qsweep: Qsweep) -> None:
    chosen = ("--where", f"weight_bits == 2 and images in ['genie', 'train'] {UNMEASURED}")
    shorter = settings(image_iterations=100, unit_iterations=150)
    launched = qsweep("launch", "digits-zeroshot", *shorter, *chosen)
    assert launched.returncode == 0, launched.stderr
    found = {
        (one["images"], one["rounding"]): one["a"]
        for one in rows(qsweep, "SELECT images, rounding, test_accuracy AS a FROM quantizations")
    }
    assert len(found) == 4
    for images in ("genie", "train"):
        assert found[images, "reconstruction"] >= found[images, "nearest"] + 0.08
    assert found["train", "reconstruction"] >= found["genie", "reconstruction"] - 0.02  # seven of 355 images
    table = qsweep("tables", "digits-zeroshot").stdout
    assert all(one in table for one in ("genie", "train", "reconstruction", "nearest"))


def test_the_whole_path_on_the_real_cifar_100(qsweep: Qsweep, real_data: str) -> None:
    """The network of SADAG's Table 2, an eighth as wide, trained for one epoch."""
    smaller = settings(
        width=2, epochs=1, milestones=[], batch_size=250, augment="none", image_count=64, image_batch=64,
        image_iterations=60, unit_iterations=60, train_samples=1000, image_seed=0,
    )  # fmt: skip
    chosen = ("--where", f"images == 'genie' and weight_bits == 3 {UNMEASURED}")
    launched = qsweep("launch", "zeroshot-cifar100", "--data", real_data, *smaller, *chosen)
    assert launched.returncode == 0, launched.stderr
    (trained,) = rows(qsweep, "SELECT test_accuracy AS a FROM runs")
    losses = [one["l"] for one in rows(qsweep, "SELECT statistics_loss AS l FROM synthesis_losses ORDER BY iteration")]
    found = {one["rounding"]: one for one in rows(qsweep, "SELECT * FROM quantizations")}
    assert trained["a"] > 0.03  # chance has 0.01
    assert losses[-1] < losses[0] / 4
    assert found["reconstruction"]["test_loss"] < found["nearest"]["test_loss"]
    assert {one["float_test_accuracy"] for one in found.values()} == {trained["a"]}
    units = rows(qsweep, "SELECT error, error_nearest FROM units ORDER BY index")
    assert len(units) == 11
    assert all(one["error"] < one["error_nearest"] for one in units[1:])
    table = qsweep("tables", "zeroshot-cifar100").stdout
    assert "CIFAR-100" in table
    assert "reconstruction" in table
