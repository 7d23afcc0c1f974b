"""An optimizer and a weight quantizer of a file each run through a sweep, from launch to report, and nothing else knows
of them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Qsweep, environment

HERE = Path(__file__).parent
FILES = {"QSWEEP_COMPONENTS": os.pathsep.join(str(HERE / name) for name in ("signs.py", "truncating.py"))}
SWEEP = """
title = "Made-up components"
tables = ["table1", "own.toml"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
width = 2
depth = 1
learning_rate = 0.003
weight_decay = 1e-4
boost = 0.5
epochs = 3
batch_size = 256
[axes]
optimizer = ["sgd", "signs"]
quantizer = ["lsq", "truncating"]
bits = [32, 4]
[[measures]]
measure = ["pac_bayes", "sharpness"]
copies = 2
iterations = 2
measure_samples = 100
"""
OWN = """
title = "By optimizer"
kind = "runs"
rows = ["optimizer", "precision"]
[[columns]]
name = "loss"
label = "Loss"
value = "train_loss"
decimals = 3
"""
READ = """
import json, sys
from pathlib import Path
import qsweep
import torch
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.models import NiN
from qsweep.workers.data import load
from qsweep.workers.models import NETWORKS
home = Path(sys.argv[1])
runs, layers = qsweep.results("made-up", home=home), qsweep.results("made-up", "layers", home=home)
files = qsweep.query("SELECT job, model_file FROM jobs", home=home).set_index("job")["model_file"]
images = load(DATASETS["digits"], None, download=False)
pixels = images.train_images.double()
given = ((images.test_images.double() - pixels.mean()) / pixels.std(correction=0)).float()
found = {}
for row in runs[(runs.optimizer == "signs") & (runs.bits == 4)].to_dict("records"):
    network = qsweep.load_model(row["job"], home=home)
    kept = torch.load(home / "models" / files[row["job"]], weights_only=True)
    names = [name for name in kept if name.endswith(".weight") and ".norm" not in name]
    mine = layers[layers.job == row["job"]].sort_values("index")
    found[row["quantizer"]] = {
        "recorded": row["test_accuracy"],
        "accuracy": (network(given).argmax(1) == images.test_labels).double().mean().item(),
        "deployed": [one.conv.weight.flatten().tolist() for one in network.layers],
        "latent": [kept[name].flatten().tolist() for name in names],
        "steps": mine.step_size.tolist(),
        "first_steps": mine.step_size_init.tolist(),
        "bits": mine.bits.tolist(),
    }
(full,) = runs[(runs.optimizer == "signs") & (runs.bits == 32)].to_dict("records")
kept = torch.load(home / "models" / files[full["job"]], weights_only=True)
layout = NETWORKS["nin"](NiN(width=2, depth=1, channels_per_width=2), DATASETS["digits"]).layout
first = layout.initial_parameters(full["seed"])[: layout.weights].double()
names = [name for name in kept if name.endswith(".weight") and ".norm" not in name]
last = torch.cat([kept[name].flatten() for name in names]).double()
print(json.dumps({**found, "moves": ((last - first) / (0.003 * 0.5)).tolist()}))
"""


@pytest.fixture
def python(home: Path) -> Callable[..., Any]:
    """Run this text in a process that knows the made-up components; what it prints, as JSON."""

    def run(text: str, *arguments: str) -> Any:
        command = [sys.executable, "-c", text, *arguments]
        answered = subprocess.run(command, env=environment(home, FILES), capture_output=True, text=True, timeout=300)
        assert answered.returncode == 0, answered.stderr
        return json.loads(answered.stdout)

    return run


@pytest.mark.slow
def test_a_made_up_optimizer_and_quantizer_run_from_launch_to_report(
    qsweep: Qsweep, python: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    (tmp_path / "made-up.toml").write_text(SWEEP)
    (tmp_path / "own.toml").write_text(OWN)
    launched = qsweep("launch", str(tmp_path / "made-up.toml"), environment=FILES)
    assert launched.returncode == 0, launched.stderr
    (status,) = json.loads(qsweep("status", "--json", environment=FILES).stdout)["sweeps"]
    assert (status["done"], status["diverged"]) == (6 + 6 * 2, 0)

    def rows(table: str) -> list[dict[str, str]]:
        answered = qsweep("tables", "made-up", "--table", table, "--format", "csv", environment=FILES)
        assert answered.returncode == 0, answered.stderr
        return list(csv.DictReader(io.StringIO(answered.stdout)))

    assert [(row["precision"], row["models"]) for row in rows("1")] == [
        ("FP32", "2"), ("Int4", "2"), ("Int4 · truncating", "2")
    ]  # fmt: skip
    assert [(row["optimizer"], row["precision"]) for row in rows("own")] == [
        (optimizer, called) for optimizer in ("sgd", "signs") for called in ("FP32", "Int4", "Int4 · truncating")
    ]
    flatness = qsweep(
        "query", "SELECT quantizer, measure, reached FROM measures", "--format", "json", environment=FILES
    )
    measured = {(row["quantizer"], row["measure"]) for row in json.loads(flatness.stdout)}
    assert measured == {(one, kind) for one in (None, "lsq", "truncating") for kind in ("pac_bayes", "sharpness")}

    analysis = json.loads(qsweep("analyze", "made-up", "--json", environment=FILES).stdout)
    assert {one["precision"] for one in analysis["comparisons"]} == {"Int4", "Int4 · truncating"}
    page = tmp_path / "report.html"
    assert qsweep("report", "made-up", "--out", str(page), environment=FILES).returncode == 0
    assert "Int4 · truncating" in page.read_text()

    answered = python(READ, str(home))
    assert max(map(abs, answered["moves"])) >= 1
    assert all(abs(move - round(move)) < 0.01 for move in answered["moves"])
    made = answered["truncating"]
    assert made["recorded"] == pytest.approx(made["accuracy"], abs=1e-9)
    for deployed, latent, step in zip(made["deployed"], made["latent"], made["steps"], strict=True):
        for value, weight in zip(deployed, latent, strict=True):
            assert value == pytest.approx(step * math.trunc(max(-7.0, min(7.0, weight / step))), abs=1e-6)
    assert made["steps"] == made["first_steps"]
    assert made["bits"] == [4, 4, 4, 4]
    assert answered["lsq"]["bits"] == [8, 4, 4, 8]
    assert answered["lsq"]["steps"] != answered["lsq"]["first_steps"]


def test_a_file_of_components_that_fails_is_one_error_with_its_place(qsweep: Qsweep, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("1 / 0")
    for path, problem in (
        (wrong, "ZeroDivisionError: division by zero"),
        (tmp_path / "none.py", "no such Python file"),
    ):
        answered = qsweep("sweeps", environment={"QSWEEP_COMPONENTS": str(path)})
        assert answered.returncode == 2
        assert "Traceback" not in answered.stderr
        assert problem in " ".join(answered.stderr.split())
        assert f"QSWEEP_COMPONENTS: {path}" in answered.stderr.replace("\n", "")
