"""Arrow columns of Python values, made without pandas.

pyarrow's own converters look for pandas' values among those that they are given, and import pandas for that: half a
second of every process that writes a result or follows a pointer. Here the buffers of a column are filled directly.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pyarrow as pa

CODES = {pa.int64(): "q", pa.int32(): "i", pa.float64(): "d"}
"""The kinds of numbers, and how the standard library's arrays call them."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """What `pa.array` makes of such a list of values: None is null. Raises TypeError for a kind that no table has."""
    listed = list(values)
    there = [one is not None for one in listed]
    valid = None if all(there) else _bits(there)
    if kind in CODES:
        numbers = array(CODES[kind], [0 if one is None else one for one in listed])
        return pa.Array.from_buffers(kind, len(listed), [valid, pa.py_buffer(numbers)])
    if pa.types.is_boolean(kind):
        return pa.Array.from_buffers(kind, len(listed), [valid, _bits(bool(one) for one in listed)])
    if pa.types.is_timestamp(kind) and kind.unit == "us":
        ticks = column([None if one is None else (one - EPOCH) // TICK for one in listed], pa.int64())
        return ticks.cast(pa.timestamp("us", tz="UTC")).cast(kind)
    if pa.types.is_string(kind):
        texts = [b"" if one is None else one.encode() for one in listed]
        return pa.Array.from_buffers(kind, len(listed), [valid, _offsets(texts), pa.py_buffer(b"".join(texts))])
    if pa.types.is_list(kind):
        lists = [() if one is None else one for one in listed]
        inner = column([one for some in lists for one in some], kind.value_type)
        return pa.Array.from_buffers(kind, len(listed), [valid, _offsets(lists)], children=[inner])
    if pa.types.is_struct(kind):
        parts = [column([None if one is None else one.get(part.name) for one in listed], part.type) for part in kind]
        return pa.Array.from_buffers(kind, len(listed), [valid], children=parts)
    raise TypeError(f"no column of {kind} is made here")


def text(value: str) -> pa.Scalar:
    """One text, to compare a column with."""
    return column([value], pa.string())[0]


def table_of_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """What `pa.Table.from_pylist` makes of them: a row that lacks a column has null there."""
    return pa.Table.from_arrays(
        [column([row.get(one.name) for row in rows], one.type) for one in schema], schema=schema
    )


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """What `to_pylist` makes of a table, which imports pandas for each time that has a zone."""
    listed = {name: _values(table[name]) for name in table.column_names}
    return [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]


def _values(cells: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(cells.type) and cells.type.unit == "us" and cells.type.tz == "UTC":
        return [None if one is None else EPOCH + one * TICK for one in cells.cast(pa.int64()).to_pylist()]
    values: list[Any] = cells.to_pylist()
    return values


def _bits(values: Iterable[bool]) -> pa.Buffer:
    octets = bytes(values)
    return pa.Array.from_buffers(pa.uint8(), len(octets), [None, pa.py_buffer(octets)]).cast(pa.bool_()).buffers()[1]


def _offsets(parts: Sequence[Sequence[Any]]) -> pa.Buffer:
    return pa.py_buffer(array("i", accumulate((len(one) for one in parts), initial=0)))
