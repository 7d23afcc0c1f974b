"""Table 1 is what its declaration says: checked against an independent computation with pandas."""

from __future__ import annotations

import csv
import io
import random
import tomllib
from dataclasses import replace
from importlib import resources
from typing import Any

import pandas as pd
import pytest

from qsweep.reports.declaration import check_form, declared_tables, find_table, paper_values, parse_table, with_medians
from qsweep.reports.formats import Format
from qsweep.reports.render import Layout, render
from qsweep.reports.table import Table, make_table, mean_and_error
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep

JOBS = read_sweep("cifar10-grid").jobs()
PAPER = Layout(against_paper=True)


def results(count: int = len(JOBS), *, diverged: int = 0) -> list[dict[str, Any]]:
    """Made-up results of the first `count` jobs, the first `diverged` of them diverged."""
    draw = random.Random(7)
    rows = []
    for index, job in enumerate(JOBS[:count]):
        lost = index < diverged
        row = {"job": job.identity, "diverged": lost, **job.settings()}
        for name in ("train_accuracy", "test_accuracy", "train_loss", "test_loss", "generalization_gap"):
            row[name] = None if lost else draw.random()
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], **options: Any) -> Table:
    settings = {job.identity: job.settings() for job in JOBS}
    return make_table(find_table("table1"), heading="cifar10-grid@test", jobs=settings, results=rows, **options)


def test_every_column_is_the_mean_over_the_243_models_of_a_precision() -> None:
    rows = results()
    made = table(rows)
    frame = pd.DataFrame(rows)
    assert [row.keys for row in made.rows] == [("CIFAR-10", "NiN", name) for name in ("FP32", "Int8", "Int4", "Int2")]
    for row, bits in zip(made.rows, (32, 8, 4, 2), strict=True):
        group = frame[frame.bits == bits]
        assert (row.done, row.expected) == (243, 243)
        for cell, name, scale in zip(
            row.cells,
            ("train_accuracy", "test_accuracy", "train_loss", "test_loss", "generalization_gap"),
            (100, 100, 1, 1, 1),
            strict=True,
        ):
            assert cell.mean == pytest.approx(scale * group[name].mean(), rel=1e-12)
            assert cell.error == pytest.approx(scale * group[name].sem(), rel=1e-12)


@pytest.mark.parametrize("form", list(Format))
def test_the_text_is_the_same_for_any_order_of_the_results(form: Format) -> None:
    rows = results(diverged=3)
    shuffled = random.Random(1).sample(rows, len(rows))
    layout = Layout(against_paper=True, spread=True)
    assert render(table(rows), form, layout) == render(table(shuffled), form, layout)


def test_diverged_models_are_left_out_counted_and_named() -> None:
    rows = results(diverged=4)
    made = table(rows)
    for row, lost in zip(made.rows, rows[:4], strict=True):
        assert row.diverged == (lost["job"],)
        assert row.cells[0].count == 242
    text = render(made, Format.MARKDOWN, Layout())
    assert "242/243" in text
    for lost in rows[:4]:
        assert f"({lost['job'][:12]})" in text


def test_a_model_that_overflows_in_evaluation_is_left_out_like_a_diverged_one() -> None:
    rows = results()
    rows[0] = {**rows[0], "test_loss": None, "generalization_gap": None}
    first = table(rows).rows[0]
    assert first.diverged == (rows[0]["job"],)
    assert {cell.count for cell in first.cells} == {242}


def test_a_model_that_has_no_value_of_an_optional_column_has_not_diverged() -> None:
    """Plain trainings change no codes by a perturbation: they are counted, and their cell is empty."""
    rows = [{**one, "changed_codes": 0.25 if one["bits"] == 4 else None} for one in results()]
    column = replace(find_table("table1").columns[0], name="changed", value="changed_codes", scale=1)
    declaration = replace(find_table("table1"), columns=(*find_table("table1").columns, column))
    settings = {job.identity: job.settings() for job in JOBS}
    made = make_table(declaration, heading="here", jobs=settings, results=rows)
    assert [(row.diverged, row.counted, row.cells[-1].mean) for row in made.rows] == [
        ((), 243, 0.25 if row.keys[-1] == "Int4" else None) for row in made.rows
    ]
    assert render(made, Format.MARKDOWN, Layout()).count("–") == 3


def test_a_partial_sweep_gives_a_partial_table_that_says_so() -> None:
    text = render(table(results(6)), Format.MARKDOWN, Layout())
    assert "Partial: 6 of 972 models are done." in text
    assert [line.split("|")[-2].strip() for line in text.splitlines()[4:8]] == ["2/243", "2/243", "1/243", "1/243"]


def test_a_sweep_without_results_gives_a_table_of_dashes() -> None:
    made = table([])
    assert all(cell.mean is None for row in made.rows for cell in row.cells)
    assert "0/243" in render(made, Format.MARKDOWN, Layout())


def test_the_papers_values_stand_beside_with_the_differences() -> None:
    made = table(results())
    cell = made.rows[0].cells[0]
    assert cell.paper == 97.61
    assert cell.mean is not None
    assert cell.difference == pytest.approx(cell.mean - 97.61)
    lines = render(made, Format.MARKDOWN, PAPER).splitlines()
    assert [line.split("|")[4].strip() for line in lines if line.startswith("| ") and "Source" not in line][:4] == [
        "-" * 10,
        "this run",
        "paper",
        "difference",
    ]
    assert "97.61" in lines[5]


def test_another_data_set_may_stand_beside_and_is_named() -> None:
    settings = {job.identity: {**job.settings(), "data": "digits"} for job in JOBS}
    made = make_table(find_table("table1"), heading="h", jobs=settings, results=results(), compare_with="CIFAR-10")
    assert made.rows[3].keys[0] == "Digits"
    assert made.rows[3].cells[0].paper == 93.4
    assert "those of CIFAR-10" in render(made, Format.MARKDOWN, PAPER)


def test_the_shipped_paper_values_are_the_papers_table() -> None:
    values = paper_values(find_table("table1"))
    assert len(values) == 20
    assert values["CIFAR-100", "NiN", "Int2"] == {
        "train_acc": 81.21,
        "test_acc": 62.11,
        "train_loss": 0.676,
        "test_loss": 1.537,
        "generalization_gap": 0.859,
    }


def test_csv_holds_full_precision_and_reads_back() -> None:
    made = table(results())
    (first, *_) = csv.DictReader(io.StringIO(render(made, Format.CSV, PAPER)))
    assert float(first["train_acc"]) == made.rows[0].cells[0].mean
    assert float(first["train_acc_paper"]) == 97.61
    assert (first["models"], first["expected"], first["diverged"]) == ("243", "243", "0")


def test_latex_is_a_booktabs_table_with_its_characters_escaped() -> None:
    text = render(table(results(5)), Format.LATEX, Layout(spread=True))
    assert text.splitlines()[0] == r"% \usepackage{booktabs,graphicx}"
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"Train acc. (\%)", r"$\pm$", r"\end{tabular}"):
        assert part in text
    assert "$-$0." in render(table(results(5)), Format.LATEX, Layout(against_paper=True))
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {8}


def test_one_model_has_no_standard_error_and_none_no_mean() -> None:
    assert mean_and_error([2.0]) == (2.0, None)
    assert mean_and_error([]) == (None, None)


def test_every_sweep_names_tables_that_are_declared() -> None:
    for name in ("cifar10-grid", "cifar100-grid", "digits-grid"):
        assert set(read_sweep(name).tables) <= set(declared_tables())


def test_an_unknown_table_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'table"):
        find_table("table9")


def test_values_of_another_data_set_stand_beside_without_a_difference() -> None:
    settings = {job.identity: {**job.settings(), "data": "digits"} for job in JOBS}
    made = make_table(find_table("table1"), heading="h", jobs=settings, results=results(), compare_with="CIFAR-10")
    assert made.rows[0].cells[0].paper == 97.61
    assert made.rows[0].cells[0].difference is None
    for form in Format:
        text = render(made, form, PAPER)
        assert "difference |" not in text
        assert "_difference" not in text
        assert form is Format.CSV or "another data set: no differences" in text


def test_a_collapsed_model_is_named_and_medians_do_not_follow_it() -> None:
    rows = results()
    usual = table(rows)
    rows[0] = {**rows[0], "test_loss": 520_094.0, "generalization_gap": 520_093.0}
    made = table(rows)
    assert [row.outside for row in made.rows] == [(rows[0]["job"],), (), (), ()]
    text = render(made, Format.MARKDOWN, Layout())
    assert f"CIFAR-10 NiN FP32: 1 ({rows[0]['job'][:12]})" in text
    assert "10 × ln(classes)" in text
    assert "10 × ln(classes)" not in render(usual, Format.MARKDOWN, Layout())
    first = made.rows[0].cells[3]
    assert first.mean is not None
    assert first.mean > 1000
    settings = {job.identity: job.settings() for job in JOBS}
    declared = with_medians(find_table("table1"))
    medians = make_table(declared, heading="h", jobs=settings, results=rows)
    frame = pd.DataFrame(rows)
    losses = frame[frame.bits == 32].test_loss
    cell = medians.rows[0].cells[3]
    assert cell.mean == losses.median()
    assert cell.error == pytest.approx((losses - losses.median()).abs().median(), rel=1e-12)
    assert "median absolute deviation" in render(medians, Format.MARKDOWN, Layout(spread=True))
    with pytest.raises(InputError, match="no table of means"):
        with_medians(find_table("table3"))


def test_the_tables_that_come_along_have_the_form_that_is_asked_of_users() -> None:
    folder = resources.files("qsweep.reports").joinpath("declarations")
    for name, table in declared_tables().items():
        content = tomllib.loads(folder.joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        assert replace(check_form(content, name), name=name) == table
        assert table.rows
        assert table.columns
        assert all(0 <= column.decimals <= 9 for column in table.columns)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows": []}, "mine.toml: rows: this is empty"),
        ({"foo": 1}, "mine.toml: foo: there is no such key"),
        ({"columns": [{"name": "a", "label": "A", "value": "train_loss", "decimals": 10}]}, "columns.1.decimals"),
        ({"columns": [{"name": "a", "label": 3, "value": "train_loss", "decimals": 1}]}, "mine.toml: columns.1.label"),
    ],
)
def test_a_slip_in_the_form_of_a_table_of_ones_own_is_refused_at_its_place(changed: dict[str, Any], said: str) -> None:
    column = {"name": "a", "label": "A", "value": "train_loss", "decimals": 2}
    content = {"title": "Mine", "kind": "runs", "rows": ["bits"], "columns": [column]}
    assert parse_table(content, "mine.toml").name == "mine"
    with pytest.raises(InputError, match=said):
        parse_table(content | changed, "mine.toml")
