"""A table of texts, described once, and how it stands in Markdown and in plain text.

`reports.screen` draws the same description for a terminal, `reports.html` for a page, `reports.latex` for a paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from qsweep.reports import escaping

GAP = "  "
MARK = re.compile(r"#+ |- ")
"""What begins a heading, or an entry of a list."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """One column of a sheet."""

    name: str
    numeric: bool = False
    """Its cells stand to the right, and are never wrapped."""
    copied: bool = False
    """People copy its cells (names, paths, commands): they are never broken or left out."""
    spare: int = 0
    """Where a terminal is too narrow, columns are left out from the highest number down; 0 stays."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of texts. Every row has a cell for each heading."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    subtitle: str = ""
    label: str = ""
    """What other texts refer to it by."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, below the table."""
    groups: tuple[int, ...] = ()
    """Rows that begin a group: a line may stand above them."""
    everything: str = "all with --json"
    """How to get what a terminal leaves out."""

    @property
    def caption(self) -> str:
        """Title and subtitle in one line."""
        return f"{self.title} — {self.subtitle}" if self.subtitle else self.title

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.headings]

    def head(self, count: int) -> Sheet:
        """The first rows alone."""
        return replace(self, rows=self.rows[:count], groups=tuple(one for one in self.groups if one < count))


Part: TypeAlias = str | Sheet
"""What a document is made of: a sheet, or a heading, paragraph or list in Markdown."""


def headings(*names: str, numeric: Sequence[str] = (), copied: Sequence[str] = ()) -> tuple[Heading, ...]:
    """Columns of these names."""
    return tuple(Heading(name=name, numeric=name in numeric, copied=name in copied) for name in names)


def spares(count: int) -> list[int]:
    """The `spare` of each of that many columns where those in the middle matter least and the first one stays."""
    order = [index for pair in zip(range(count), reversed(range(count)), strict=True) for index in pair]
    ranks = {index: rank for rank, index in enumerate(dict.fromkeys(order))}
    return [ranks[index] for index in range(count)]


def markdown(sheet: Sheet) -> str:
    """An aligned Markdown table with its caption and its notes, ending with a newline."""
    lines = [
        [escaping.markdown(name) for name in sheet.names],
        *([escaping.markdown(cell) for cell in row] for row in sheet.rows),
    ]
    widths = [max(width, 2) for width in _widths(lines)]  # a rule of one character is none
    rule = [
        "-" * (width - 1) + ":" if one.numeric else "-" * width
        for one, width in zip(sheet.headings, widths, strict=True)
    ]
    padded = [_padded(sheet.headings, widths, line) for line in (lines[0], rule, *lines[1:])]
    title, subtitle = escaping.markdown(sheet.title), escaping.markdown(sheet.subtitle)
    text = [f"**{title}**" + (f" — {subtitle}" if subtitle else ""), ""] if title else []
    text += [f"| {' | '.join(line)} |" for line in padded]
    if sheet.notes:
        text += ["", *(f"- {escaping.markdown(note)}" for note in sheet.notes)]
    return "\n".join(text) + "\n"


def document(parts: Sequence[Part]) -> str:
    """Headings, paragraphs, lists and sheets as one Markdown text that ends with a newline."""
    return "\n\n".join(_lines(part) if isinstance(part, str) else markdown(part).rstrip("\n") for part in parts) + "\n"


def _lines(part: str) -> str:
    """A text with its marks of headings and lists, and nothing else in it that Markdown obeys."""
    return "\n".join(map(_marked, part.split("\n")))


def _marked(line: str) -> str:
    mark = MARK.match(line)
    start = mark[0] if mark else ""
    return start + escaping.markdown(line[len(start) :])


def plain(sheet: Sheet) -> str:
    """Aligned text with a header line, ending with a newline: a line a row, whatever its length."""
    lines = [sheet.names, *sheet.rows]
    widths = _widths(lines)
    return "".join(GAP.join(_padded(sheet.headings, widths, line)).rstrip() + "\n" for line in lines)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(1, *map(len, column)) for column in zip(*lines, strict=True)]


def _padded(columns: Sequence[Heading], widths: Sequence[int], cells: Sequence[str]) -> list[str]:
    return [
        cell.rjust(width) if one.numeric else cell.ljust(width)
        for one, width, cell in zip(columns, widths, cells, strict=True)
    ]
