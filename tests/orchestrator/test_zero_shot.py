"""The built-in sweep of zero-shot quantization as a user runs it."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Qsweep


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
