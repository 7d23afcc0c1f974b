"""Tables as text: Markdown, LaTeX (booktabs), CSV, HTML."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qsweep.reports import escaping, html, latex
from qsweep.reports.averages import FEW
from qsweep.reports.declaration import Column
from qsweep.reports.formats import Format as Format
from qsweep.reports.labels import setting_label, zeroed
from qsweep.reports.outliers import RULE
from qsweep.reports.sheet import Heading, Sheet, markdown, spares
from qsweep.reports.table import Cell, Row, Table
from qsweep.sweeps.text import as_json


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows beside the means."""

    against_paper: bool = False
    spread: bool = False
    """Standard errors, and the number of models where it is not that of the row."""
    spreadsheet: bool = False
    """In CSV, cells that a spreadsheet would take for formulas are texts."""


MISSING = "–"
REPEATING = {"convention", "corruption", "severity"}
"""Keys of rows by which one model stands in several rows."""
DOUBTED = "‡"
"""Behind a value of the paper that its review speaks against."""
SOURCE = "this run"
"""Whose values stand in a row, beside `paper` and `difference`."""


def render(table: Table, form: Format, layout: Layout) -> str:
    """The table as text that ends with a newline, equal for equal results on any machine."""
    return RENDERERS[form](table, layout)


def render_all(tables: Sequence[Table], form: Format, layout: Layout) -> str:
    """Several tables as one text."""
    if form is Format.JSON:
        return as_json([_content(table, layout) for table in tables]) + "\n"
    text = "\n".join(render(table, form, layout) for table in tables)
    return html.document(text, tables[0].heading if tables else "") if form is Format.HTML else text


def notes(table: Table, layout: Layout) -> list[str]:
    """What a reader has to know: missing models, diverged ones, and what the paper's values are of."""
    lines = list(_partial_note(table))
    if layout.spread and any(cell.error is not None for row in table.rows for cell in row.cells):
        lines.append(_spread_note(table))
    for row in table.rows:
        if row.diverged:
            names = ", ".join(identity[:12] for identity in row.diverged)
            lines.append(f"Diverged and left out of the means: {' '.join(row.keys)}: {len(row.diverged)} ({names}).")
    for row in table.rows:
        if row.outside:
            names = ", ".join(identity[:12] for identity in row.outside)
            lines.append(f"Counted, but with {RULE}: {' '.join(row.keys)}: {len(row.outside)} ({names}).")
    lines += _averages_notes(table.rows)
    if layout.against_paper and table.compared_with:
        lines.append(
            f"The paper's values are those of {table.compared_with}, another data set: no differences; "
            "compare the trend."
        )
    if layout.against_paper and any(cell.doubted for row in table.rows for cell in row.cells):
        lines.append(
            f"{DOUBTED} The paper's value is in doubt (by its own formulas, or beside other publications): "
            "`qsweep analyze --paper` says why."
        )
    return lines + list(table.remarks)


def _partial_note(table: Table) -> Iterator[str]:
    """How much is missing: in models, unless one model stands in several rows."""
    done, expected = sum(row.done for row in table.rows), sum(row.expected for row in table.rows)
    lacking = sum(row.done < row.expected for row in table.rows)
    if lacking and REPEATING.isdisjoint(table.declaration.rows):
        yield f"Partial: {done} of {expected} {table.declaration.nouns} are done."
    elif lacking:
        yield f"Partial: {lacking} of {len(table.rows)} rows lack {table.declaration.nouns}."


def _spread_note(table: Table) -> str:
    nouns = table.declaration.nouns
    kinds = {column.statistic for column in table.declaration.columns} & {"mean", "median"}
    named = {"mean": "standard error of the mean", "median": "median absolute deviation"}
    spreads = " (means) or ".join(named[kind] for kind in sorted(kinds)) + (" (medians)" if len(kinds) > 1 else "")
    return f"± {spreads} over the {nouns}; n where fewer {nouns} have the value."


def header_of(table: Table, layout: Layout) -> list[str]:
    """The labels of the columns."""
    keys = [setting_label(name) for name in table.declaration.rows]
    source = ["Source"] if layout.against_paper else []
    labels = (column.label for column in table.declaration.columns)
    return [*keys, *source, *labels, table.declaration.nouns.capitalize()]


def sheet_of(table: Table, layout: Layout) -> Sheet:
    """The table as it is printed, in whatever form."""
    layout = _fitting(table, layout)
    columns = table.declaration.columns
    keys = len(table.declaration.rows) + layout.against_paper
    spare = [0] * keys + [1 + rank for rank in spares(len(columns))] + [0]
    blocks = [lines_of(row, columns, layout) for row in table.rows]
    starts = itertools.accumulate((len(block) for block in blocks), initial=0)
    return Sheet(
        headings=tuple(
            Heading(name=name, numeric=index >= keys, spare=spare[index])
            for index, name in enumerate(header_of(table, layout))
        ),
        rows=tuple(tuple(line) for block in blocks for line in block),
        title=table.declaration.heading,
        subtitle=table.heading,
        label=table.declaration.name,
        notes=tuple(notes(table, layout)),
        groups=tuple(starts)[:-1] if any(len(block) > 1 for block in blocks) else (),
        everything="all with --format csv",
    )


def _fitting(table: Table, layout: Layout) -> Layout:
    """The layout that a table asks for: its spread, and no place for the paper's values where no paper has any."""
    against = layout.against_paper and table.declaration.paper is not None
    return replace(layout, against_paper=against, spread=layout.spread or table.declaration.spread)


def _csv(table: Table, layout: Layout) -> str:
    """Full precision, one line a row; means in the paper's units."""
    layout = _fitting(table, layout)
    safe = escaping.spreadsheet if layout.spreadsheet else str
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in table.declaration.columns]
    averages = any(row.averaged for row in table.rows)
    extra: list[tuple[str, Callable[[Cell], float | int | str | None]]] = [("", lambda cell: cell.mean)]
    if table.remarks:
        extra.append(("_marks", lambda cell: cell.marks))
    if layout.spread:
        extra.append(("_standard_error", lambda cell: cell.error))
        extra.append(("_n", lambda cell: cell.count))
    if layout.against_paper:
        extra.append(("_paper", lambda cell: cell.paper))
        if table.compared_with is None:
            extra.append(("_difference", lambda cell: cell.difference))
    writer.writerow(
        [
            *table.declaration.rows,
            *(name + suffix for suffix, _ in extra for name in names),
            table.declaration.nouns,
            "expected",
            "diverged",
            *(["averaged_over"] if averages else []),
        ]
    )
    for row in table.rows:
        values = [value(cell) for _, value in extra for cell in row.cells]
        writer.writerow(
            [
                *map(safe, row.keys),
                *("" if value is None else value if isinstance(value, str) else repr(value) for value in values),
                row.done,
                row.expected,
                len(row.diverged),
                *(["; ".join(row.averaged)] if averages else []),
            ]
        )
    return text.getvalue()


def _content(table: Table, layout: Layout) -> dict[str, Any]:
    """A table as JSON: full precision, every cell with all that is known of it."""
    names = [column.name for column in table.declaration.columns]
    return {
        "name": table.declaration.name,
        "title": table.declaration.heading,
        "sweep": table.heading,
        "compared_with": table.compared_with,
        "rows": [
            {
                "keys": dict(zip(table.declaration.rows, row.keys, strict=True)),
                "cells": {name: _cell(cell) for name, cell in zip(names, row.cells, strict=True)},
                table.declaration.nouns: row.counted,
                "done": row.done,
                "expected": row.expected,
                "diverged": row.diverged,
            }
            for row in table.rows
        ],
        "notes": notes(table, layout),
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "mean": cell.mean,
        "standard_error": cell.error,
        "n": cell.count,
        "paper": cell.paper,
        "paper_doubted": cell.doubted,
        "difference": cell.difference,
        "marks": cell.marks,
    }


RENDERERS: dict[Format, Callable[[Table, Layout], str]] = {
    Format.MARKDOWN: lambda table, layout: markdown(sheet_of(table, layout)),
    Format.LATEX: lambda table, layout: latex.fragment(sheet_of(table, layout)),
    Format.CSV: _csv,
    Format.HTML: lambda table, layout: html.fragment(sheet_of(table, layout)),
    Format.JSON: lambda table, layout: as_json(_content(table, layout)) + "\n",
}


def lines_of(row: Row, columns: list[Column], layout: Layout) -> list[list[str]]:
    """The printed lines of one row: ours alone, or ours, the paper's and (for the same data set) the difference."""
    pairs = list(zip(row.cells, columns, strict=True))
    models = f"{row.counted}/{row.expected}"
    ours = [_ours(cell, column, row, layout) for cell, column in pairs]
    if not layout.against_paper:
        return [[*row.keys, *ours, models]]
    if all(cell.paper is None for cell in row.cells):
        return [[*row.keys, SOURCE, *ours, models]]
    blank = [""] * len(row.keys)
    lines = [
        [*row.keys, SOURCE, *ours, models],
        [*blank, "paper", *(paper_text(cell, column) for cell, column in pairs), ""],
    ]
    if not any(cell.same_data for cell in row.cells):
        return lines
    return [
        *lines,
        [*blank, "difference", *(_shown(cell.difference, column, signed=True) for cell, column in pairs), ""],
    ]


def _ours(cell: Cell, column: Column, row: Row, layout: Layout) -> str:
    """Our value as it is printed, with its spread and its marks."""
    text = _shown(cell.mean, column, error=cell.error if layout.spread else None)
    fewer = layout.spread and cell.mean is not None and cell.count != row.counted
    return text + (f" (n={cell.count})" if fewer else "") + cell.marks


def paper_text(cell: Cell, column: Column) -> str:
    """The paper's value as it is printed, with the sign of a doubt."""
    return _shown(cell.paper, column) + (DOUBTED if cell.doubted else "")


def _shown(value: float | None, column: Column, *, error: float | None = None, signed: bool = False) -> str:
    if value is None:
        return MISSING
    text = f"{zeroed(value, column.decimals):{'+' if signed else ''}.{column.decimals}f}"
    return text if error is None else f"{text} ± {error:.{column.decimals}f}"


def _averages_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Which rows average over what."""
    for one in dict.fromkeys(each for row in rows for each in row.averaged):
        mine = [row for row in rows if one in row.averaged]
        some = "; ".join(" ".join(row.keys) for row in mine)
        named = f" ({some})" if len(mine) <= FEW and len(mine) < len(rows) else ""
        yield f"{len(mine)} of {len(rows)} rows{named} are means over {one}."
