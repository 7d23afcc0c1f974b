"""A sweep with two training methods, from launch to report: each is a row of its own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.conftest import Qsweep

SWEEP = """
title = "Methods"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
width = 2
depth = 1
optimizer = "sgd"
learning_rate = 0.01
weight_decay = 1e-4
rho = 0.02
epochs = 2
batch_size = 256
milestones = [1]
[axes]
method = ["plain", "sam", "saq3"]
bits = [32, 4]
seed = [0, 1]
[[measures]]
measure = "pac_bayes"
copies = 2
iterations = 2
measure_samples = 100
"""


@pytest.mark.slow
def test_two_methods_are_rows_of_their_own_from_launch_to_report(qsweep: Qsweep, tmp_path: Path) -> None:
    file, page = tmp_path / "methods.toml", tmp_path / "report.html"
    file.write_text(SWEEP)
    launched = qsweep("launch", str(file))
    assert launched.returncode == 0, launched.stderr
    (status,) = json.loads(qsweep("status", "--json").stdout)["sweeps"]
    assert (status["done"], status["failed"], status["diverged"]) == (20, 0, 0)

    table = qsweep("tables", "methods", "--table", "1", "--format", "csv")
    assert table.returncode == 0, table.stderr
    rows = [(row["precision"], row["models"]) for row in csv.DictReader(io.StringIO(table.stdout))]
    assert rows == [(called, "2") for called in ("FP32", "Int4", "FP32 · SAM", "Int4 · SAM", "Int4 · SAQ3")]

    answered = qsweep("query", "SELECT bits, method, rho, count(*) AS n FROM runs GROUP BY ALL", "--format", "json")
    found = {(row["bits"], row["method"], row["rho"]): row["n"] for row in json.loads(answered.stdout)}
    assert found == {
        (32, None, None): 2,
        (4, None, None): 2,
        (32, "sam", 0.02): 2,
        (4, "sam", 0.02): 2,
        (4, "saq3", 0.02): 2,
    }
    analysis = json.loads(qsweep("analyze", "methods", "--json").stdout)
    assert {"Int4", "Int4 · SAM", "Int4 · SAQ3"} <= {one["precision"] for one in analysis["comparisons"]}
    assert qsweep("report", "methods", "--out", str(page)).returncode == 0
    assert "Int4 · SAM" in page.read_text()
    again = json.loads(qsweep("plan", str(file), "--json").stdout)
    assert (again["jobs"], again["done"]) == (0, 20)
