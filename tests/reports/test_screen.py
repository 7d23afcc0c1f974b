"""Tables on a terminal: as wide as that at most, no word broken, and what is left out is said."""

from __future__ import annotations

import re

import pytest

from qsweep.reports.answers import make_tables
from qsweep.reports.inversion import paper_sheet
from qsweep.reports.render import Layout, sheet_of
from qsweep.reports.screen import cells, drawn, drawn_document, paragraph
from qsweep.reports.sheet import Heading, Sheet, headings, markdown, plain, spares
from tests.reports.drawn import made_source

WIDTHS = [60, 61, 72, 80, 100, 120, 200]
NAME = "digits-distortion@472f5d4b"
LONG = "/home/somebody/a/rather/long/path/of/a/home/that/no/narrow/terminal/has/room/for/.qsweep"


@pytest.fixture(scope="module")
def sheets() -> dict[str, Sheet]:
    """Tables as they are printed, and others that are hard to fit."""
    found = {
        f"{name} {number}{' spread' if layout.spread else ''}": sheet_of(table, layout)
        for name in ("digits-grid", "digits-flatness", "digits-distortion")
        for layout in (Layout(), Layout(against_paper=True, spread=True))
        for number, table in enumerate(make_tables(made_source(name)))
    }
    return found | {
        "paper": paper_sheet(),
        "names": Sheet(
            headings=(*headings("job", "file", copied=["job", "file"]), Heading(name="n", numeric=True, spare=1)),
            rows=((NAME, LONG, "1"), (NAME + "x", LONG + "/x", "2")),
        ),
        "prose": Sheet(
            headings=headings("part", "finding"),
            rows=(("home", f"{LONG} has 74 GB free, and more words follow"), ("wide", "日本語 テスト " * 12)),
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_keeps_to_the_terminal_and_breaks_no_word(sheets: dict[str, Sheet], width: int) -> None:
    for sheet in sheets.values():
        text = drawn(sheet, width)
        for line in text.splitlines():
            assert cells(line) <= width or " " not in line.strip(), line
        words = {
            word
            for texts in (sheet.names, [sheet.caption, *sheet.notes], *sheet.rows)
            for one in texts
            for word in one.split()
        }
        table = text.split("\n(")[0].splitlines()
        shown = {word for line in table if not set(line) <= set("─┄") for word in line.split()}
        assert {one for one in shown if not {one, one.rstrip(":")} & (words | {"…", "-", "·", "—"})} == set()


@pytest.mark.parametrize("width", WIDTHS)
def test_what_one_copies_is_whole_and_stays(sheets: dict[str, Sheet], width: int) -> None:
    text = drawn(sheets["names"], width)
    for row in sheets["names"].rows:
        assert row[0] in text.split()
        assert row[1] in text.split()
    assert LONG in drawn(sheets["prose"], width).split()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_column_is_shown_or_named(sheets: dict[str, Sheet], width: int) -> None:
    for sheet in sheets.values():
        text = drawn(sheet, width)
        lines = text.splitlines()
        first = next(index for index, line in enumerate(lines) if line.startswith("─"))
        header = " ".join(" ".join(lines[: first + 8]).split())
        note = " ".join(re.findall(r"\n\((.*)\)\n", text, re.DOTALL)).replace("\n", " ")
        for heading in sheet.headings:
            assert all(word in header for word in heading.name.split()) or heading.name in note
        if "columns shown" in note:
            assert sheet.everything in note


def test_table_1_loses_nothing_at_80_columns(sheets: dict[str, Sheet]) -> None:
    text = drawn(sheets["digits-grid 0"], 80)
    assert "columns shown" not in text
    assert "Dataset: Digits · Model: NiN" in text or "Digits   NiN" in text


def test_rows_beyond_a_bound_are_counted() -> None:
    sheet = Sheet(headings=headings("a"), rows=tuple((str(number),) for number in range(30)))
    assert "(5 of 30 rows shown; all with --json)" in drawn(sheet, 80, rows=5)


def test_the_middle_columns_are_left_out_first() -> None:
    assert spares(5) == [0, 2, 4, 3, 1]
    assert spares(1) == [0]
    assert spares(0) == []


def test_one_description_makes_markdown_and_plain_text() -> None:
    sheet = Sheet(
        headings=headings("name", "n", numeric=["n"]), rows=(("a|b", "1"),), title="T", subtitle="s", notes=("so",)
    )
    assert markdown(sheet) == "**T** — s\n\n| name |  n |\n| ---- | -: |\n| a\\|b |  1 |\n\n- so\n"
    assert plain(sheet) == "name  n\na|b   1\n"


def test_a_document_has_underlined_headings_and_paragraphs_within_the_width(sheets: dict[str, Sheet]) -> None:
    text = drawn_document(["# Title", "### Part", "- one\n  - " + "word " * 30, sheets["paper"]], 60)
    assert text.startswith("Title\n═════\n\nPart\n\n- one\n  - word word")
    assert "\n    word" in text  # what an entry goes on with stands below it
    assert max(map(cells, text.splitlines())) <= 60


def test_a_paragraph_cuts_no_word() -> None:
    assert paragraph("a " + "b" * 90 + " c", 60) == ["a", "b" * 90, "c"]
