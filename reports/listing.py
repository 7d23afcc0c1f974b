"""An Arrow table as a person or a program takes it: aligned text, CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types

from reports import escaping
from reports.escaping import on_one_line
from reports.formats import RowFormat
from reports.frames import with_frame_types

MISSING = "–"
GAP = "  "
MORE = "…"
DIGITS = 6
"""Significant digits of a float in a text; CSV and JSON have all of them."""
WIDEST = 60
NARROW = 19
"""Most characters of a cell in a terminal, and where the columns don't fit into it then."""


def written(
    table: pa.Table, form: RowFormat, *, width: int | None = None, rows: int | None = None, spreadsheet: bool = False
) -> bytes:
    """The table in that format. `width` (characters) and `rows` bound a text alone; what they leave out it says.

    For a `spreadsheet`, cells of CSV that would be formulas are made texts.
    """
    match form:
        case RowFormat.TABLE:
            return listed(table, width=width, rows=rows).encode()
        case RowFormat.CSV:
            return _csv(table, spreadsheet=spreadsheet).encode()
        case RowFormat.JSON:
            return _json(table).encode()
    buffer = io.BytesIO()
    pq.write_table(with_frame_types(table), buffer, compression="zstd")
    return buffer.getvalue()


def listed(
    table: pa.Table, *, width: int | None = None, rows: int | None = None, hint: str = "all with --format csv"
) -> str:
    """Aligned text with a header; without bounds every row and column stands in it. Else `hint` says how to get all."""
    shown = table if rows is None else table.slice(0, rows)
    columns = _columns(shown, None if width is None else WIDEST)
    if width is not None and _width(columns) > width:
        columns = _columns(shown, NARROW)
    kept = _fitting(columns, width)
    lines = [_line(columns, kept, [column.name for column in columns])]
    lines += [_line(columns, kept, [column.cells[row] for column in columns]) for row in range(shown.num_rows)]
    notes = []
    if len(kept) < len(columns):
        notes.append(f"{len(kept)} of {len(columns)} columns shown")
    if shown.num_rows < table.num_rows:
        notes.append(f"{shown.num_rows} of {table.num_rows} rows shown")
    text = "\n".join(lines) + "\n"
    return text + (f"({', '.join(notes)}; {hint})\n" if notes else "")


def _columns(table: pa.Table, bound: int | None) -> list[_Column]:
    return [
        _Column(name, column, right=_is_number(column.type), bound=bound)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


class _Column:
    """The cells of one column as texts."""

    def __init__(self, name: str, column: pa.ChunkedArray, *, right: bool, bound: int | None) -> None:
        self.name, self.right = _cut(on_one_line(name), bound), right
        self.cells = [_cut(_shown(value), bound) for value in column.to_pylist()]
        self.width = max(len(self.name), *(len(cell) for cell in self.cells), 1)

    def padded(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)


def _fitting(columns: Sequence[_Column], width: int | None) -> list[int]:
    """The columns that fit into `width`, from both ends: the middle of a wide table matters least."""
    everything = list(range(len(columns)))
    if width is None or _width(columns) <= width:
        return everything
    left, right = everything[:1], list[int]()
    used = columns[0].width + len(GAP) + len(MORE)
    rest = everything[1:]
    while rest:
        from_end = len(left) > len(right)
        index = rest[-1] if from_end else rest[0]
        used += columns[index].width + len(GAP)
        if used > width:
            break
        rest.remove(index)
        if from_end:
            right.insert(0, index)
        else:
            left.append(index)
    return [*left, *right]


def _line(columns: Sequence[_Column], kept: Sequence[int], cells: Sequence[str]) -> str:
    parts = []
    for place, index in enumerate(kept):
        if place and index > kept[place - 1] + 1:
            parts.append(MORE)
        parts.append(columns[index].padded(cells[index]))
    if kept and kept[-1] < len(columns) - 1:
        parts.append(MORE)
    return GAP.join(parts).rstrip()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _cut(text: str, bound: int | None) -> str:
    return text if bound is None or len(text) <= bound else text[: bound - 1] + MORE


def _shown(value: Any) -> str:
    """A value in a text: short, on one line."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | dict):
        return on_one_line(json.dumps(_jsonable(value), ensure_ascii=False))
    return on_one_line(str(value))


def _csv(table: pa.Table, *, spreadsheet: bool) -> str:
    safe = escaping.spreadsheet if spreadsheet else str
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([safe(name) for name in table.column_names])
    cells = ([safe(_exact(value)) for value in column.to_pylist()] for column in table.columns)
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue()


def _exact(value: Any) -> str:
    """A value in CSV: nothing is rounded, null is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | dict):
        return json.dumps(_jsonable(value), ensure_ascii=False)
    return str(_jsonable(value))


def _json(table: pa.Table) -> str:
    """A list of objects, one a line. JSON has no NaN and no infinity: these are null."""
    rows = [json.dumps(_jsonable(row), ensure_ascii=False, allow_nan=False) for row in table.to_pylist()]
    return "[" + ",\n ".join(rows) + "]\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
