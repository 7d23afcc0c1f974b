"""Measures run as children of trainings, as a user launches them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qsweep as api
from qsweep.db.registry import Registry
from qsweep.db.states import State
from tests.conftest import Qsweep

TRAININGS = """
title = "Three small models"
{head}
[fixed]
data = "digits"
model = "nin"
width = 8
depth = 1
channels_per_width = 1
optimizer = "sgd"
weight_decay = 0.0
epochs = 2
batch_size = 128

[axes]
bits = [32, 4]
learning_rate = [0.05{more}]
"""
MEASURES = """
[[measures]]
measure = "pac_bayes"
scaling = ["plain", "magnitude"]
measure_samples = 200
copies = 2
iterations = 4

[[measures]]
measure = "sharpness"
measure_samples = 200
copies = 2
iterations = 2
ascent_steps = 2
"""
BOTH = 'tables = ["table2", "table3"]'


def sweep_file(folder: Path, name: str, text: str, *, head: str = "", more: str = "") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text.format(head=head, more=more))
    return str(path)


@pytest.mark.slow
def test_measures_are_added_to_a_finished_sweep_without_training_again(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    trained = qsweep("launch", sweep_file(tmp_path, "trained", TRAININGS), "--workers", "1")
    assert trained.returncode == 0, trained.stderr
    measured = qsweep("launch", sweep_file(tmp_path, "measured", TRAININGS + MEASURES, head=BOTH), "--workers", "1")
    assert measured.returncode == 0, measured.stderr
    assert "8 jobs: 6 new, 0 known, 2 shared" in measured.stderr
    assert "**Table 3: Flatness measures**" in measured.stdout
    with Registry.open(f"sqlite:///{home / 'registry.db'}") as registry:
        attempts = {
            row.kind: row.attempt for row in registry.catalogue.jobs(registry.catalogue.find_sweep("measured").id)
        }
    assert attempts == {"train": 1, "measure": 1}
    runs, rows = api.results("measured", home=home), api.results("measured", "measures", home=home)
    assert (len(runs), len(rows)) == (2, 6)
    joined = rows.merge(runs, left_on="parent", right_on="job", suffixes=("", "_run"))
    assert (joined.init_hash == joined.init_hash_run).all()
    assert (joined.m == 1442).all()
    assert (joined.samples == 200).all()
    full = joined[joined.bits == 32]
    assert full.folded.all()
    quantized = joined[joined.bits == 4]
    assert quantized.weight_norm.tolist() == pytest.approx(quantized.weight_norm_run.tolist(), rel=1e-6)
    assert quantized.distance.tolist() == pytest.approx(quantized.distance_run.tolist(), rel=1e-6)
    for row in rows.itertuples():
        assert len(row.trace) == row.candidates
        assert row.trace[-1]["radius"] == row.radius
        assert row.flatness == pytest.approx(row.radius**-2)
    again = qsweep("launch", str(tmp_path / "measured.toml"))
    assert "Nothing to do" in again.stderr
    assert qsweep("db", "check").returncode == 0
    drawn = qsweep("figures", "measured", "--out", str(tmp_path / "figures"), "--format", "svg")
    assert drawn.returncode == 0, drawn.stderr
    assert "step-sizes.svg" in {path.name for path in (tmp_path / "figures").iterdir()}
    page = tmp_path / "measured.html"
    assert qsweep("report", "measured", "--out", str(page)).returncode == 0
    written = page.read_bytes()
    assert b"Table 3: Flatness measures" in written
    bundle = str(tmp_path / "bundle")
    assert qsweep("export", "measured", "--out", bundle).returncode == 0
    assert qsweep("report", "--from", bundle, "--out", str(page)).returncode == 0
    assert page.read_bytes() == written
    found = json.loads(qsweep("analyze", "--from", bundle, "--json").stdout)
    assert {claim["name"] for claim in found["claims"]} >= {"gap-shrinks", "quantized-is-flatter"}


@pytest.mark.slow
def test_measures_of_a_diverged_model_end_done_and_flagged(qsweep: Qsweep, home: Path, tmp_path: Path) -> None:
    text = TRAININGS.replace("weight_decay = 0.0", "weight_decay = 1.0")
    launched = qsweep(
        "launch", sweep_file(tmp_path, "lost", text + MEASURES, head=BOTH, more=", 100.0"), "--workers", "1"
    )
    assert launched.returncode == 0, launched.stderr
    with Registry.open(f"sqlite:///{home / 'registry.db'}") as registry:
        rows = registry.catalogue.jobs(registry.catalogue.find_sweep("lost").id)
    assert {row.state for row in rows} == {State.DONE}
    lost = {row.id for row in rows if row.kind == "train" and row.diverged}
    assert lost
    assert all(row.diverged == (row.parent_id in lost) for row in rows if row.kind == "measure")
    found = api.results("lost", "measures", home=home)
    assert found[found.diverged].radius.isna().all()
    assert found[~found.diverged].radius.notna().all()


@pytest.mark.slow
def test_a_measure_of_a_model_that_was_not_kept_is_refused_before_anything_is_registered(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    thrown = qsweep("launch", sweep_file(tmp_path, "thrown", TRAININGS, head='keep = "none"'), "--workers", "1")
    assert thrown.returncode == 0, thrown.stderr
    refused = qsweep("launch", sweep_file(tmp_path, "wanting", TRAININGS + MEASURES, head=BOTH))
    assert refused.returncode == 2
    assert "measures are asked of 2 trained models that were not kept" in refused.stderr.replace("\n", " ")
    with Registry.open(f"sqlite:///{home / 'registry.db'}") as registry:
        assert [sweep.name for sweep in registry.catalogue.sweeps()] == ["thrown"]


def test_the_papers_tables_are_inverted_by_a_command(here: Qsweep) -> None:
    answer = here("analyze", "--paper")
    assert answer.returncode == 0, answer.stderr
    line = [one for one in answer.stdout.splitlines() if one.startswith("| CIFAR-10 NiN (4x10) FP32")][-1]
    cells = [cell.strip() for cell in line.split("|")[2:]]
    assert cells[:2] + cells[4:8] == ["0.1328", "1.9993", "α at 2", "2,196,750", "2,177,208", "68.0"]
    assert here("analyze").returncode == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("noise_std=exact",), "allowed: reference, corrected"),
        (("measure_samples=3",), "images of Digits"),
        (("search_upper=-1.0",), "search_upper"),
    ],
)
def test_a_wrong_convention_is_refused_before_anything_is_written(
    here: Qsweep, home: Path, changes: tuple[str, ...], message: str
) -> None:
    refused = here("launch", "digits-flatness", *(part for one in changes for part in ("--set", one)))
    assert refused.returncode == 2
    assert message in refused.stderr.replace("\n", " ")
    assert not home.exists()
