"""The tables that a launch ends with: as much of each as a screen holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qsweep.reports.answers import make_tables
from qsweep.reports.distortion import MEAN
from qsweep.reports.render import Layout, sheet_of
from qsweep.reports.sheet import Sheet
from qsweep.reports.source import Source
from qsweep.reports.table import Row, Table

MOST = 25
"""Lines of a table."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One table, or its rows that say most."""

    sheet: Sheet
    rest: str
    """How to see the rest; empty where nothing was left out."""


def summarize(source: Source, layout: Layout) -> Iterator[Summary]:
    """Each table of a sweep, in as many lines as a screen holds."""
    for table in make_tables(source):
        whole = sheet_of(table, layout)
        columns = f"all with qsweep tables {source.title} --format csv"
        if len(whole.rows) <= MOST:
            yield Summary(sheet=replace(whole, everything=columns), rest="")
            continue
        chosen = replace(table, rows=_telling(table))
        shown = _screen(sheet_of(chosen, layout))
        rows = shown.groups or range(len(shown.rows))
        command = f"qsweep tables {source.title} --table {table.declaration.number or table.declaration.name}"
        command += " --against-paper" if layout.against_paper else ""
        yield Summary(
            sheet=replace(shown, notes=whole.notes, everything=columns),
            rest=f"{len(rows)} of {len(table.rows)} rows of {table.declaration.heading.partition(':')[0]}; "
            f"all of them: {command}",
        )


def _telling(table: Table) -> tuple[Row, ...]:
    """The rows over all corruptions where a table has them, else all."""
    if "corruption" not in table.declaration.rows:
        return table.rows
    place = table.declaration.rows.index("corruption")
    means = tuple(row for row in table.rows if row.keys[place] == MEAN)
    return means or table.rows


def _screen(sheet: Sheet) -> Sheet:
    """Its first lines, of whole groups."""
    if len(sheet.rows) <= MOST:
        return sheet
    ends = [one for one in (*sheet.groups, len(sheet.rows)) if one <= MOST] if sheet.groups else [MOST]
    return sheet.head(max(ends))
