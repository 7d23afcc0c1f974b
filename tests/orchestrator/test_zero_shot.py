"""The built-in sweep of zero-shot quantization as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
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


def test_blocks_beat_nearest_rounding_and_real_images_are_no_worse(qsweep: Qsweep, home: Path) -> None:
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
    for kind in ("synthetic_images", "epochs"):  # whose loss stops no answer
        next((home / "results" / kind).iterdir()).unlink()
    for command in ("figures", "report"):
        answered = qsweep(command, "digits-zeroshot")
        assert answered.returncode == 0, answered.stderr
        assert "lost and left out here" in answered.stderr
