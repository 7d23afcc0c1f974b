"""The views that SQL may name: every kind of result, and what the registry says, of all sweeps side by side."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

from qsweep.db.rows import Counts
from qsweep.db.schema import ROW_KINDS, SETTINGS
from qsweep.db.standing import standing
from qsweep.db.views import TIME, VIEWS
from qsweep.reports.source import Source, shown_schema
from qsweep.reports.widening import VIEW, wide_rows, wide_schema, wide_table

SWEEP = pa.schema([pa.field("sweep", pa.string()), pa.field("variant", pa.string())])
"""The columns that every view begins with."""
SWEEPS = pa.schema(
    [
        *SWEEP,
        pa.field("title", pa.string()),
        pa.field("state", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("jobs", pa.int64()),
        pa.field("keep", pa.string()),
        pa.field("code", pa.string()),
        pa.field("created_at", TIME),
        pa.field("launched_at", TIME),
    ]
)


def view_names() -> list[str]:
    """Every view, results first."""
    return [*ROW_KINDS, *VIEWS, "sweeps"]


def view_schema(name: str) -> pa.Schema:
    """The columns of a view. Raises InputError."""
    return SWEEPS if name == "sweeps" else pa.schema([*SWEEP, *shown_schema(name)])


def view_meaning(name: str) -> str:
    """What a row of the view is."""
    return str(_glossary()["views"].get(name, ""))


def column_meaning(view: str, column: str) -> str:
    """What a column holds, with its unit."""
    glossary = _glossary()
    meaning = glossary.get(view, {}).get(column) or glossary["columns"].get(column)
    if meaning is None and column in SETTINGS.names:
        meaning = "setting of the sweep file"
    return str(meaning or "")


@cache
def _glossary() -> Mapping[str, Any]:
    text = resources.files("qsweep.reports").joinpath("glossary.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def names_of(sources: Sequence[Source]) -> list[str]:
    """What SQL calls each sweep: NAME if a bare NAME means it, NAME@VARIANT else."""
    return [source.called for source in sources]


class Catalogued(ds.Dataset):  # type: ignore[misc]
    """One view of these sweeps, read when a query asks for it: only the named columns, of the named sweeps.

    An Arrow dataset to DuckDB, which hands its projections and filters to `scanner`. `failure` keeps what went wrong
    while it was read, because DuckDB reports only the text of it.
    """

    def __init__(self, name: str, sources: Sequence[Source], *, names_sweeps: bool = True, wide: bool = False) -> None:
        self._name = name
        self._wide = wide and name == VIEW
        """Whether the settings and the returned values of calls are columns: to know these, all rows are read."""
        self._counts = not names_sweeps
        """Where the query names no sweep, DuckDB asks for the first column only to count its rows."""
        self._sources = list(zip(names_of(sources), sources, strict=True))
        self.failure: Exception | None = None
        self.shared = 0
        """Jobs that stood more than once in what was read, once for each of their sweeps, unseen by the query."""

    @cached_property
    def _rows(self) -> list[list[dict[str, Any]]]:
        """Of each sweep, the rows of its calls."""
        return [wide_rows(source) if source.spec.calls else [] for _, source in self._sources]

    @cached_property
    def schema(self) -> pa.Schema:
        if self._wide:
            return pa.schema([*SWEEP, *wide_schema(row for rows in self._rows for row in rows)])
        return view_schema(self._name)

    def scanner(
        self, columns: Sequence[str] | None = None, filter: ds.Expression | None = None, **options: Any
    ) -> ds.Scanner:
        """The rows that the filter admits. Called by DuckDB."""
        try:
            table = self._read(columns, filter)
        except Exception as error:
            self.failure = error
            raise
        return ds.dataset(table).scanner(columns=columns, filter=filter, **options)

    def _read(self, columns: Sequence[str] | None, condition: ds.Expression | None) -> pa.Table:
        schema = self.schema
        named = set(schema.names) if columns is None else set(columns)
        if condition is not None and columns is not None:
            named |= _named_in(condition, schema)
        kept = pa.schema([field for field in schema if field.name in named] or [schema.field(0)])
        admitted = self._admitted(condition)
        unnamed = columns is not None and self._counts and named <= {schema.field(0).name}
        blind = len(admitted) > 1 and "job" in schema.names and (unnamed or not named & {*SWEEP.names})
        if blind and "job" not in kept.names:
            kept = kept.append(schema.field("job"))
        tables = [self._of(number, kept) for number in admitted]
        if blind:
            jobs = [pc.unique(table["job"]) for table in tables]
            self.shared = sum(map(len, jobs)) - len(pc.unique(pa.chunked_array(jobs, pa.string())))
        return pa.concat_tables(tables) if tables else kept.empty_table()

    def _of(self, number: int, kept: pa.Schema) -> pa.Table:
        """The rows of one sweep."""
        label, source = self._sources[number]
        if self._name == "sweeps":
            return pa.Table.from_pylist([_sweep_row(label, source)], schema=SWEEPS).select(kept.names)
        own = [name for name in kept.names if name not in SWEEP.names]
        if self._wide:
            table = wide_table(self._rows[number], pa.schema([self.schema.field(name) for name in own or ["job"]]))
        else:
            table = source.look(self._name, own or ["job"])
        same = {"sweep": label, "variant": source.title}
        values = {
            name: pa.repeat(pa.scalar(same[name], pa.string()), table.num_rows) if name in same else table[name]
            for name in kept.names
        }
        return pa.table(values, schema=kept)

    def _admitted(self, condition: ds.Expression | None) -> list[int]:
        """The sweeps that may have rows for which the condition holds."""
        if condition is None:
            return list(range(len(self._sources)))
        # Arrow knows how to rule out a partition; here a sweep is one, and no file is opened.
        form, files = ds.ParquetFileFormat(), fs.LocalFileSystem()
        partitions = [
            form.make_fragment(str(number), files, (ds.field("sweep") == label) & (ds.field("variant") == source.title))
            for number, (label, source) in enumerate(self._sources)
        ]
        if not partitions:
            return []
        dataset = ds.FileSystemDataset(partitions, self.schema, form, files)
        return [int(one.path) for one in dataset.get_fragments(filter=condition)]


def _named_in(condition: ds.Expression, schema: pa.Schema) -> set[str]:
    """The columns that a condition may name: those whose name stands in its text."""
    text = str(condition)
    return {name for name in schema.names if name in text}


def _counts(source: Source) -> Counts:
    states = pc.value_counts(source.read("jobs", ["state"])["state"].combine_chunks()).to_pylist()
    return Counts(**{one["values"]: one["counts"] for one in states})


def _sweep_row(label: str, source: Source) -> dict[str, Any]:
    sweep = source.sweep
    return {
        "sweep": label,
        "variant": sweep.title,
        "title": source.spec.title,
        "state": standing(sweep, _counts(source)),
        "reason": sweep.reason,
        "owner": sweep.owner,
        "jobs": sweep.size,
        "keep": sweep.keep,
        "code": sweep.code,
        "created_at": round(sweep.created_at * 1e6),
        "launched_at": round(sweep.launched_at * 1e6),
    }
