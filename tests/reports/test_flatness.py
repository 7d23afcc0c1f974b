"""Tables 2 and 3 put each measure where its convention says, mark what is a bound, and compare with FP32."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from qsweep.reports.declaration import declared_tables, find_table, paper_values
from qsweep.reports.flatness import make_flatness_table
from qsweep.reports.render import Format, Layout, render
from qsweep.reports.table import Cell, Table
from qsweep.sweeps.files import builtin_names, read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes

SPEC = read_sweep("digits-flatness")
JOBS = SPEC.jobs()


def row(job: Job, **changes: Any) -> dict[str, Any]:
    """A made-up row of one measure job, whose values say whose they are."""
    assert job.measure is not None
    bits = job.training.bits
    base = 1.0 + (job.measure.name == "sharpness") + 0.5 * (job.measure.scaling == "magnitude")
    if isinstance(job.measure, PacBayes):
        base += 10 * (job.measure.noise_std == "corrected")
    values = {
        "job": job.identity,
        "diverged": False,
        "saturated": False,
        "value_init": base + bits / 100,
        "value_orig": base - bits / 100,
        "flatness": base * bits,
        "weight_norm": float(bits),
    }
    return values | changes


def rows() -> list[dict[str, Any]]:
    return [row(job) for job in JOBS if job.kind is FLATNESS]


def table(results: list[dict[str, Any]], name: str = "table3") -> Table:
    return make_flatness_table(find_table(name), heading="test", spec=SPEC, results=results)


def cell(made: Table, precision: str, convention: str, column: str) -> Cell:
    index = [one.name for one in made.declaration.columns].index(column)
    (found,) = [one for one in made.rows if one.keys[2:] == (precision, convention)]
    return found.cells[index]


def test_each_value_stands_under_its_measure_and_convention() -> None:
    made = table(rows())
    assert cell(made, "Int4", "reference · latent+s", "pac_init").mean == pytest.approx(1.04)
    assert cell(made, "Int4", "corrected · quantized", "pac_mag_orig").mean == pytest.approx(11.46)
    assert cell(made, "Int2", "corrected · latent+s", "sharp_mag_init").mean == pytest.approx(2.52)
    assert cell(made, "Int8", "reference · latent+s", "sharp_flatness").mean == pytest.approx(16.0)
    assert {one.keys[3] for one in made.rows} == {
        f"{noise} · {perturbed}"
        for noise in ("reference", "corrected")
        for perturbed in ("latent+s", "latent", "quantized")
    }


def test_full_precision_stands_beside_every_convention() -> None:
    made = table(rows())
    for convention in ("reference · latent", "reference · quantized", "reference · latent+s"):
        assert cell(made, "FP32", convention, "pac_init").mean == pytest.approx(1.32)


def test_a_cell_says_whether_it_is_flatter_than_full_precision() -> None:
    made = table(rows())
    assert cell(made, "Int2", "reference · latent+s", "pac_init").marks == "↓"
    assert cell(made, "Int2", "reference · latent+s", "pac_orig").marks == "↑"
    assert cell(made, "FP32", "reference · latent+s", "pac_orig").marks == ""
    assert "- Flatter than FP32 under reference · latent: 12 of 18 cells." in render(made, Format.MARKDOWN, Layout())


def test_saturated_cells_are_marked_and_explained() -> None:
    lost = next(job for job in JOBS if job.measure is not None and job.measure.name == "sharpness")
    results = [one | ({"saturated": True} if one["job"] == lost.identity else {}) for one in rows()]
    made = table(results)
    text = render(made, Format.MARKDOWN, Layout())
    marks = [one.marks for one in (found for line in made.rows for found in line.cells)]
    assert sum("*" in one for one in marks) == 6  # three columns, beside both noises
    assert "* saturated: a search ended at an end of its interval" in text
    assert "saturated" not in render(table(rows()), Format.MARKDOWN, Layout())


def test_what_is_missing_or_diverged_is_counted_and_named() -> None:
    results = rows()
    parent = JOBS[3].identity
    gone = {job.identity for job in JOBS if job.parent == parent}
    results = [
        row_ | {"diverged": True, "value_init": None, "value_orig": None, "flatness": None}
        if row_["job"] in gone
        else row_
        for row_ in results
    ]
    text = render(table(results), Format.MARKDOWN, Layout())
    assert f"Int2 reference · latent+s: 1 ({parent[:12]})" in text
    nothing = table([])
    lacking = f"Partial: {len(nothing.rows)} of {len(nothing.rows)} rows lack models."  # of 4, each in several rows
    assert lacking in render(nothing, Format.MARKDOWN, Layout())


def test_table_2_has_one_norm_a_model() -> None:
    made = table(rows(), "table2")
    assert [(one.keys[2], one.cells[0].mean, one.cells[0].count) for one in made.rows] == [
        ("FP32", 32.0, 1),
        ("Int8", 8.0, 1),
        ("Int4", 4.0, 1),
        ("Int2", 2.0, 1),
    ]


def test_the_papers_values_stand_beside_the_references_convention() -> None:
    paper = paper_values(find_table("table3"))
    assert paper["CIFAR-10", "NiN (4x10)", "FP32"]["pac_orig"] == 2.2
    assert paper_values(find_table("table2"))["CIFAR-10", "NiN (4x10)", "FP32"] == {"weight_l2_norm": 130.686}
    spec = read_sweep("cifar10-flatness")
    made = make_flatness_table(find_table("table3"), heading="h", spec=spec, results=[])
    beside = {one.keys[3] for one in made.rows if one.cells[0].paper is not None}
    assert beside == {"reference · latent+s"}


@pytest.mark.parametrize(("data", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
def test_the_cifar_sweeps_fill_every_row_of_the_papers_tables(data: str, title: str) -> None:
    spec = read_sweep(f"{data}-flatness")
    for name in ("table2", "table3"):
        declaration = find_table(name)
        made = make_flatness_table(declaration, heading="h", spec=spec, results=[])
        beside = {one.keys[:3] for one in made.rows if any(cell.paper is not None for cell in one.cells)}
        assert beside == {keys for keys in paper_values(declaration) if keys[0] == title}
        assert len(beside) == 16


def test_a_resnet_of_another_width_does_not_stand_beside_the_papers() -> None:
    spec = read_sweep("cifar10-flatness", ["width=8", "model=resnet", "depth=18", "epochs=2", "milestones=[1]"])
    made = make_flatness_table(find_table("table2"), heading="h", spec=spec, results=[])
    assert {one.keys[1] for one in made.rows} == {"ResNet-18 (width 8)"}
    assert all(one.cells[0].paper is None for one in made.rows)


def test_csv_carries_the_marks() -> None:
    (first, *_) = csv.DictReader(io.StringIO(render(table(rows()), Format.CSV, Layout())))
    assert first["pac_init"] == repr(1.32)
    assert first["pac_init_marks"] == ""


def test_latex_has_names_for_every_sign() -> None:
    text = render(table(rows()), Format.LATEX, Layout())
    assert text.isascii() or not set(text) & set("↓↑σα²₂‖·")


def test_every_builtin_sweep_names_tables_that_are_declared() -> None:
    for name in builtin_names():
        assert set(read_sweep(name).tables) <= set(declared_tables())
