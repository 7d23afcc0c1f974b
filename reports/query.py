"""SQL over results and registry: DuckDB on Arrow tables, locked in so that a query can only read these.

DuckDB's own SQLite and Postgres extensions are downloads, and it would open files and URLs; so it is given the
tables, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.types

from qsweep.db.foreign import check_times
from qsweep.reports.catalogue import Catalogued, column_meaning, view_meaning, view_names, view_schema
from qsweep.reports.source import Source
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    import duckdb

LOCKS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # a name in SQL never means a variable of this program
    "temp_directory": "",
}
"""No file, no network, no extension, no temporary file."""
READING = ("SELECT", "MULTI")  # MULTI: a PIVOT, which DuckDB takes apart
ALLOWED = "allowed: SELECT, WITH, FROM, VALUES, PIVOT, DESCRIBE, SUMMARIZE, SHOW"
PLACE = "query"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The rows that SQL asked for, and what the user may not be aware of."""

    table: pa.Table
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a statement may take: seconds, memory of DuckDB's in its own words (`1GB`), rows that are answered."""

    seconds: float
    memory: str
    rows: int


def run_query(sql: str, sources: Sequence[Source], bounds: Bounds | None = None) -> Answer:
    """What one statement answers about these sweeps, the one launched last first; within these bounds, if any.

    Raises InputError for anything but one statement that reads, and with DuckDB's own words for what does not
    hold in it.
    """
    import duckdb

    names_sweeps = bool(re.search(r"\b(?:sweep|variant)\b", sql, re.IGNORECASE))
    wide = bool(re.search(r"\breturned\b", sql, re.IGNORECASE))
    views = {name: Catalogued(name, sources, names_sweeps=names_sweeps, wide=wide) for name in view_names()}
    connection = duckdb.connect(":memory:", config=LOCKS)
    try:
        for name, view in views.items():
            connection.register(name, view)
        connection.execute("SET TimeZone = 'UTC'")
        if bounds is not None:
            connection.execute(f"SET memory_limit = '{bounds.memory}'")
        connection.execute("SET lock_configuration = true")  # from here on no statement changes a setting
        _check(connection, sql)
        table = plain(_fetch(connection, sql, bounds))
    except duckdb.Error as error:
        raise _explained(error, sql, views) from None
    finally:
        connection.close()
    try:
        check_times(table)
    except ValueError as error:
        raise InputError(str(error), place=PLACE, allowed="cast it to VARCHAR") from None
    notes = list(_notes(views))
    if bounds is not None and table.num_rows > bounds.rows:
        table = table.slice(0, bounds.rows)
        notes.append(f"these are the first {bounds.rows:,} rows; the command line answers all")
    return Answer(table=table, notes=tuple(notes))


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str, bounds: Bounds | None) -> pa.Table:
    """The statement's rows, fetched by a thread: a thread that computes for DuckDB does not hear Ctrl-C. One row more
    than the bounds allow shows that there are more. Raises InputError where the time is up."""
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(lambda: _rows(connection, sql, bounds))
        try:
            return answer.result(None if bounds is None else bounds.seconds)
        except KeyboardInterrupt:
            connection.interrupt()
            raise
        except TimeoutError:
            assert bounds is not None
            while not wait([answer], 0.1).done:  # it hears this only while it computes
                connection.interrupt()
            problem = f"this took longer than the {bounds.seconds:g} s that a query may take here"
            raise InputError(problem, place=PLACE, allowed="on the command line it may take longer") from None


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, bounds: Bounds | None) -> pa.Table:
    if bounds is None:
        return connection.sql(sql).to_arrow_table()
    reader, parts, count = connection.sql(sql).to_arrow_reader(), [], 0
    for part in reader:
        parts.append(part)
        count += part.num_rows
        if count > bounds.rows:
            break
    return pa.Table.from_batches(parts, schema=reader.schema).slice(0, bounds.rows + 1)


def _notes(views: Mapping[str, Catalogued]) -> Iterator[str]:
    for name, view in views.items():
        if view.shared:
            yield (
                counted(view.shared, f"job in {name} belongs", f"jobs in {name} belong")
                + " to several sweeps, and each of these counts it: name one, by WHERE sweep = '…' or --sweep"
            )


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise InputError unless this is one statement that reads."""
    if any("\ud800" <= letter <= "\udfff" for letter in sql):
        raise InputError("the statement is not UTF-8 text", place=PLACE)
    statements = connection.extract_statements(sql)
    if not statements:
        raise InputError("there is no statement", place=PLACE, allowed=ALLOWED)
    if len(statements) > 1:
        raise InputError(f"these are {len(statements)} statements", place=PLACE, allowed="allowed: one")
    kind = statements[0].type.name
    if kind not in READING:
        raise InputError(f"a query only reads, and this is a {kind} statement", place=PLACE, allowed=ALLOWED)


def _explained(error: duckdb.Error, sql: str, views: Mapping[str, Catalogued]) -> Exception:
    """DuckDB's error as one of ours; what went wrong in a view of ours, in DuckDB's thread, as it was."""
    for view in views.values():
        if view.failure is not None:
            return view.failure
    text, _, where = str(error).partition("\n\nLINE ")
    kind, _, problem = text.partition(": ")
    problem = problem.splitlines()[0].rstrip("!") if problem else kind
    if "disabled by configuration" in text or "disabled through configuration" in text:
        return InputError(
            "SQL reaches no file, network or extension here", place=PLACE, allowed=f"it reads {', '.join(views)}"
        )
    if missing := re.search(r'Table with name "?([^"]+?)"? does not exist', text):
        allowed = nearest(missing[1], views)
        return InputError(f"there is no view {missing[1]!r}", place=PLACE, allowed=f"{allowed} ({_hint('--tables')})")
    if missing := re.search(r'column "([^"]+)" (?:not found|was not found)', text):
        columns = {column for view in _named(sql, views) for column in views[view].schema.names}
        allowed = nearest(missing[1], columns) if len(columns) < 40 or _close(missing[1], columns) else ""
        allowed = f"{allowed} ({_hint('--schema')})" if allowed else _hint("--schema")
        return InputError(f"there is no column {missing[1]!r}", place=PLACE, allowed=allowed)
    return InputError(problem + (f"\nLINE {where}" if where else ""), place=PLACE)


def _hint(option: str) -> str:
    return f"`qsweep query {option}` lists them"


def _close(name: str, columns: set[str]) -> bool:
    return nearest(name, columns).startswith("did you mean")


def _named(sql: str, views: Mapping[str, Catalogued]) -> list[str]:
    """The views whose names stand in the statement, or all."""
    words = set(re.findall(r"\w+", sql.lower()))
    return [name for name in views if name in words] or list(views)


def describe_views() -> pa.Table:
    """Every view and what a row of it is."""
    rows = [{"view": name, "columns": len(view_schema(name)), "meaning": view_meaning(name)} for name in view_names()]
    return pa.Table.from_pylist(rows)


def describe_columns(view: str | None = None) -> pa.Table:
    """Every column of that view, or of all: its type in SQL and its meaning. Raises InputError."""
    if view is not None and view not in view_names():
        allowed = nearest(view, view_names())
        raise InputError(f"there is no view {view!r}", place="--schema", allowed=allowed)
    rows = [
        {
            **({} if view else {"view": name}),
            "column": field.name,
            "type": _sql_type(field.type),
            "meaning": column_meaning(name, field.name),
        }
        for name in ([view] if view else view_names())
        for field in view_schema(name)
    ]
    return pa.Table.from_pylist(rows)


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    return {"string": "VARCHAR", "bool": "BOOLEAN", "double": "DOUBLE", "int32": "INTEGER", "int64": "BIGINT"}[
        str(kind)
    ]


def plain(table: pa.Table) -> pa.Table:
    """The table with the types that every reader knows: DuckDB's wide integers and decimals as int64 and float64."""
    columns = [_plain(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_decimal(kind):
        return column
    if kind.scale == 0:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # more than 64 bits hold
    return column.cast(pa.float64())
