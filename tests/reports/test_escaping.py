"""A name means nothing in any format that it is written in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest

from qsweep.orchestrator.tuning.answer import Tried
from qsweep.orchestrator.tuning.answer import _sheet as trials_sheet
from qsweep.reports.analysis.text import table as analysis_table
from qsweep.reports.declaration import find_table
from qsweep.reports.escaping import html, latex, latex_label, markdown, spreadsheet
from qsweep.reports.formats import Format
from qsweep.reports.quantization import Quantization
from qsweep.reports.render import Layout, render, render_all
from qsweep.reports.sheet import markdown as markdown_table
from qsweep.reports.table import Cell, Row, Table

HOSTILE = (
    "a|b <img src=x onerror=alert(1)> `code` *bold* _x_ [l](javascript:0) \x1b[31mred\x1b[0m\nnew & \\cmd{} $m$ #1 %2"
    ' ~3 ^4 "q"'
)
ROW = Row(
    keys=("=cmd()", HOSTILE, "FP32"),
    cells=tuple(Cell(mean=-0.5, error=0.1, count=2, paper=None) for _ in range(5)),
    expected=3,
    done=3,
    diverged=("0" * 32,),
)


def hostile_table() -> Table:
    declared = find_table("table1")
    columns = [dataclasses.replace(one, label=HOSTILE) for one in declared.columns]
    declaration = dataclasses.replace(declared, title=HOSTILE, name=HOSTILE, columns=columns)
    row = dataclasses.replace(ROW, cells=ROW.cells[: len(columns)])
    return Table(declaration=declaration, heading=HOSTILE, rows=(row,), compared_with=HOSTILE, remarks=(HOSTILE,))


LAYOUT = Layout(against_paper=True, spread=True)


def test_markdown_has_its_rows_and_no_html_link_or_code() -> None:
    text = render(hostile_table(), Format.MARKDOWN, LAYOUT)
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3  # header, rule, one row
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert not re.search(r"<[a-z]|(?<!\\)`|(?<!\\)\]\(|(?<!\\)\*b|\x1b", text)
    assert all(line.startswith(("|", "**", "- ")) for line in lines if line)


def test_latex_has_no_command_cell_or_comment_of_a_name() -> None:
    text = render(hostile_table(), Format.LATEX, LAYOUT)
    assert r"\cmd" not in text
    label = re.search(r"\\label\{(.*)\}$", text, re.MULTILINE)
    assert label
    assert re.fullmatch(r"tab:[A-Za-z0-9.:-]+", label[1])
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert not [line for line in text.splitlines()[1:] if re.search(r"(?<!\\)%", line) and not line.endswith("{!}{%")]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"-\$" not in text
    assert "$-$0.5" in text


def test_a_row_of_latex_does_not_begin_with_an_option() -> None:
    assert latex("[2cm] x") == "{[}2cm{]} x"


def test_html_has_no_element_of_a_name() -> None:
    text = render_all([hostile_table()], Format.HTML, LAYOUT)
    assert "<img" not in text
    assert "\x1b" not in text
    assert "&lt;img" in text


def test_csv_and_json_keep_the_names_whole() -> None:
    rows = list(csv.reader(io.StringIO(render(hostile_table(), Format.CSV, LAYOUT))))
    assert rows[1][:3] == list(ROW.keys)
    (table,) = json.loads(render_all([hostile_table()], Format.JSON, LAYOUT))
    assert list(table["rows"][0]["keys"].values()) == list(ROW.keys)
    safe = csv.reader(io.StringIO(render(hostile_table(), Format.CSV, dataclasses.replace(LAYOUT, spreadsheet=True))))
    assert list(safe)[1][:4] == ["'=cmd()", HOSTILE, "FP32", "-0.5"]


def test_the_tables_of_an_analysis_and_of_trials_have_their_cells() -> None:
    analysed = markdown_table(analysis_table(["Models", "p"], [[HOSTILE, "< 0.001"], ["[−1, 1]", "–"]], texts=1))
    assert len(analysed.splitlines()) == 4
    assert "< 0.001" in analysed
    assert "[−1, 1]" in analysed
    one = Tried(
        job="0" * 32, quantization=Quantization(bits=2), settings={"data_folder": HOSTILE}, done=True, ending="done",
        epoch=1, metrics={"val_loss": float("inf"), "val_accuracy": None, "train_loss": 0.5, "train_accuracy": None},
    )  # fmt: skip
    two = dataclasses.replace(one, settings={"data_folder": "b"})
    lines = markdown_table(trials_sheet([one, two], "Best trials")).splitlines()[2:]
    assert len(lines) == 4
    assert not re.search(r"<img|\x1b|\binf\b", "\n".join(lines))


@pytest.mark.parametrize(
    "text", ["NiN (2x2)", "1/α′²", "digits-grid@472f5d4b", "weight_decay", "−0.5 ± 0.1", "p < 0.05", "50%"]
)
def test_usual_names_stay_as_they_are_in_markdown(text: str) -> None:
    assert markdown(text) == text


@pytest.mark.parametrize(
    ("cell", "safe"),
    [("=1", "'=1"), ("-1.5", "-1.5"), ("-1+2", "'-1+2"), ("+3e5", "+3e5"), ("@a", "'@a"), ("\tx", "'\tx"),
     ("\rx", "'\rx"), ("", ""), ("a=1", "a=1"), ("-", "'-"), ("-inf", "-inf"), ("-1_0", "'-1_0")],
)  # fmt: skip
def test_a_spreadsheet_takes_texts_for_texts_and_numbers_for_numbers(cell: str, safe: str) -> None:
    assert spreadsheet(cell) == safe


def test_labels_and_attributes() -> None:
    assert latex_label("my_table}{ä") == "my-table"
    assert latex_label("}{") == "table"
    assert html('"><x') == "&quot;&gt;&lt;x"
