"""The rows of calls of the user's code with a column for each setting and each returned value."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types

from qsweep.db.schema import ROW_KINDS
from qsweep.reports.source import Source

VIEW = "returned"
PREFIX = "returned_"
"""Stands before a returned value that is called as a setting is."""


def wide_rows(source: Source) -> list[dict[str, Any]]:
    """The one row of each done call: what is stored of it, its settings, and what it returned, by name."""
    found = []
    for row in source.read(VIEW).to_pylist():
        settings: dict[str, Any] = json.loads(row["settings"])
        returned: dict[str, Any] = json.loads(row["returned"])
        found.append(row | settings | {called(name, settings, returned): value for name, value in returned.items()})
    return found


def returned_numbers(source: Source) -> list[str]:
    """The names of the numbers that its calls return, or some of them, in the order in which they stand there."""
    known = {name for job in source.jobs for name in job.settings()} | set(ROW_KINDS[VIEW].columns.names)
    found: dict[str, bool] = {}
    for row in wide_rows(source):
        for name in (one for one in row if one not in known):
            found[name] = found.get(name, False) or isinstance(row[name], bool | int | float)
    return [name for name, is_number in found.items() if is_number]


def called(name: str, settings: Container[str], returned: Container[str]) -> str:
    """What the column of a returned value is called: as no setting is, and no other returned value."""
    found = name
    while found in settings or (found != name and found in returned):
        found = f"{PREFIX}{found}"
    return found


def wide_schema(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The columns that such rows have: those of every call, and those of their own by the types of their values."""
    base = ROW_KINDS[VIEW].columns
    names = {field.name for field in base}
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in names:
                values.setdefault(name, []).append(value)
    return pa.schema([*base, *(pa.field(name, kind_of(some)) for name, some in values.items())])


def wide_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows with these columns. Where types are mixed, a value is its text."""
    from qsweep.db.columns import table_of_rows

    texts = {field.name for field in schema if field.type == pa.string()}
    return table_of_rows(
        [{name: _text(value) if name in texts else value for name, value in row.items()} for row in rows], schema
    )


def kind_of(values: Iterable[Any]) -> pa.DataType:
    """The type of a column of these values: numbers of both kinds are float64, lists have that of their parts; what is
    mixed, and lists of lists, are text."""
    known = [value for value in values if value is not None]
    types = {type(value) for value in known}
    if types == {list}:
        parts = [part for value in known for part in value]
        inner = kind_of(parts)
        plain = {*map(type, parts)} == {str} if inner == pa.string() else not pa.types.is_list(inner)
        return pa.list_(inner) if plain else pa.string()
    if types == {bool}:
        return pa.bool_()
    if types == {int}:
        return pa.int64() if all(abs(one) < 1 << 63 for one in known) else pa.float64()
    if types and types <= {int, float}:
        return pa.float64()
    return pa.string()


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
