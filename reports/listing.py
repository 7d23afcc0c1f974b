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

from qsweep.reports import escaping
from qsweep.reports.escaping import on_one_line
from qsweep.reports.formats import RowFormat
from qsweep.reports.frames import with_frame_types
from qsweep.reports.screen import drawn
from qsweep.reports.sheet import Heading, Sheet, plain, spares
from qsweep.sweeps.errors import InputError

MISSING = "–"
DIGITS = 6
"""Significant digits of a float in a text; CSV and JSON have all of them."""
UNWRITABLE = (pa.ArrowNotImplementedError, pa.ArrowInvalid)
"""What Arrow says of a type that Parquet, or a DataFrame, does not have."""


def written(
    table: pa.Table, form: RowFormat, *, width: int | None = None, rows: int | None = None, spreadsheet: bool = False
) -> bytes:
    """The table in that format. `width` (characters) and `rows` bound a text alone; what they leave out it says.

    For a `spreadsheet`, cells of CSV that would be formulas are made texts. Raises InputError for a column of a type
    that Parquet does not have.
    """
    match form:
        case RowFormat.TABLE:
            return listed(table, width=width, rows=rows).encode()
        case RowFormat.CSV:
            return _csv(table, spreadsheet=spreadsheet).encode()
        case RowFormat.JSON:
            return _json(table).encode()
    return _parquet(table)


def _parquet(table: pa.Table) -> bytes:
    try:
        return _packed(table)
    except UNWRITABLE:
        for place, field in enumerate(table.schema):
            try:
                _packed(table.select([place]).slice(0, 1))
            except UNWRITABLE:
                problem = f"Parquet can't hold the column {field.name}, which is {field.type}"
                raise InputError(problem, place="--format parquet", allowed="cast it, say to VARCHAR") from None
        raise


def _packed(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(with_frame_types(table), buffer, compression="zstd")
    return buffer.getvalue()


def listed(
    table: pa.Table,
    *,
    width: int | None = None,
    rows: int | None = None,
    hint: str = "all with --format csv",
    spare: Sequence[int] | None = None,
) -> str:
    """Aligned text with a header; drawn for a terminal of that width, where `hint` says how to get what is left out.

    `spare` says of each column when it is left out, as `Heading.spare` does; without it the middle ones go first.
    """
    shown = table if width is None else table.slice(0, rows)
    sheet = sheet_of(shown, hint=hint, spare=spare)
    return plain(sheet) if width is None else drawn(sheet, width, total=table.num_rows)


def sheet_of(table: pa.Table, *, hint: str, spare: Sequence[int] | None) -> Sheet:
    """The table as texts; names in it are never broken."""
    spare = spare or spares(table.num_columns)
    columns = [[_shown(value) for value in column.to_pylist()] for column in table.columns]
    return Sheet(
        headings=tuple(
            Heading(
                name=on_one_line(name),
                numeric=_is_number(column.type),
                copied=_is_name(column.type, texts),
                spare=spare[index],
            )
            for index, (name, column, texts) in enumerate(zip(table.column_names, table.columns, columns, strict=True))
        ),
        rows=tuple(zip(*columns, strict=True)),
        everything=hint,
    )


def _is_name(kind: pa.DataType, texts: Sequence[str]) -> bool:
    """Whether a column holds what one copies: words that stand alone."""
    return bool(pa.types.is_string(kind)) and not any(" " in text for text in texts)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


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
