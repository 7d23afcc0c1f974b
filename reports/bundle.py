"""A bundle: one sweep's committed rows as Parquet, with a manifest; answers come from it as from the registry.

The same results give the same files, byte for byte, whenever and wherever they are exported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qsweep.db.foreign import check_returned, check_settings, check_unique, check_values, parse
from qsweep.db.losses import counted
from qsweep.db.results import DamagedResults
from qsweep.db.schema import ROW_KINDS
from qsweep.db.schema import VERSION as SCHEMA
from qsweep.db.states import State
from qsweep.db.views import VIEWS
from qsweep.reports.exported import Exported, FileEntry, read_exported
from qsweep.reports.frames import with_frame_types
from qsweep.reports.source import Source, check_columns, known_schema
from qsweep.sweeps.code import release
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.kinds import KINDS
from qsweep.sweeps.strict_json import read_strictly
from qsweep.sweeps.wholefiles import whole_folder

FORMAT = 1
"""Raised when a bundle of the old layout can't be read as one of the new."""
MANIFEST = "manifest.json"
AGAIN = "get the bundle again, or export it anew"
PROVENANCE = ("code", "torch", "device")
"""Columns of the results whose distinct values the manifest lists."""


def write_bundle(source: Source, folder: Path) -> dict[str, Any]:
    """Write the sweep to `folder`, complete or not at all; the manifest. Raises InputError if it is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("this is there already", place=f"--out {folder}", allowed="name a new or an empty folder")
    folder = folder.absolute()
    try:
        with whole_folder(folder) as begun:
            files = [_write(source, name, begun) for name in (*ROW_KINDS, *VIEWS)]
            manifest = _manifest(source, files) | _losses(source)
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            (begun / MANIFEST).write_bytes(text.encode())
    except OSError as error:
        raise InputError(f"the bundle can't be written: {error.strerror}", place=f"--out {folder}") from None
    return manifest


def _write(source: Source, name: str, folder: Path) -> dict[str, Any]:
    table = source.read(name)
    buffer = pa.BufferOutputStream()
    pq.write_table(with_frame_types(table.combine_chunks()), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    (folder / f"{name}.parquet").write_bytes(content)
    return {
        "file": f"{name}.parquet",
        "rows": table.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _manifest(source: Source, files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    jobs = source.read("jobs", ["state", "ended_at"])
    ended = pc.max(jobs["ended_at"]).as_py()
    left_out = ("id", "spec", "written_at")
    sweep = {name: value for name, value in dataclasses.asdict(source.sweep).items() if name not in left_out}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "written_by": f"qsweep {release()}",
        "sweep": sweep,
        "spec": json.loads(source.sweep.spec),
        "jobs": {one["values"]: one["counts"] for one in sorted_counts(jobs["state"])},
        "last_result_at": None if ended is None else ended.isoformat(),
        "provenance": {name: _distinct(source, name) for name in PROVENANCE},
        "files": list(files),
    }


def _losses(source: Source) -> dict[str, Any]:
    """What was lost when this was exported: the manifest of a whole sweep says nothing of it."""
    return {"lost": [dataclasses.asdict(one) for one in source.lost]} if source.lost else {}


def sorted_counts(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    """The distinct values of a column and how often each stands there, in the values' order."""
    counted: list[dict[str, Any]] = pc.value_counts(column.combine_chunks()).to_pylist()
    return sorted(counted, key=lambda one: str(one["values"]))


def _distinct(source: Source, column: str) -> list[str]:
    found: set[str] = set()
    for name, kind in ROW_KINDS.items():
        if column in kind.columns.names:
            found |= set(pc.unique(source.read(name, [column])[column]).to_pylist())
    return sorted(one for one in found if one is not None)


class BundleSource(Source):
    """A sweep that was exported to a folder. Its files are checked when it is opened: whole, and each row once.

    Raises InputError if the folder is no bundle, or holds what no export writes, DamagedResults if a file is not as it
    was exported.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = self._read_manifest()
        self.sweep = manifest.sweep
        self.called = self.sweep.name  # the only one here
        self.lost = list(manifest.lost)
        self._jobs = manifest.jobs
        self._tables = {name: self._open(name, entry) for name, entry in manifest.files.items()}
        self._check_counted()

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        check_columns(name, columns)
        schema = known_schema(name)
        schema = pa.schema([schema.field(one) for one in (schema.names if columns is None else columns)])
        if name not in self._tables:  # exported before there was such a kind of result
            return schema.empty_table()
        table = self._tables[name]
        there = table.column_names
        found = {field.name: table[field.name] if field.name in there else _nulls(table, field) for field in schema}
        return pa.table(found, schema=schema) if found else table.select([])

    def remark(self) -> str | None:
        jobs = {one.job for one in self.lost}
        return f"the results of {counted(jobs)} of {self.title} were lost when this was exported" if jobs else None

    def place_of(self, kind: str, publication: str) -> str:
        return str(self._folder / f"{kind}.parquet")

    def _read_manifest(self) -> Exported:
        path, place = self._folder / MANIFEST, f"--from {self._folder}"
        try:
            content: Any = read_strictly(path.read_bytes()) if path.is_file() else None
            version = content["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"this is no bundle: its {MANIFEST} is missing or can't be read",
                place=place,
                allowed="qsweep export NAME --out DIR makes one",
            ) from None
        if version != FORMAT:
            raise InputError(f"this bundle has format {version!r:.100}, this program reads {FORMAT}", place=place)
        try:
            return read_exported(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, QsweepError) as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            raise InputError(f"this bundle's {MANIFEST} was altered ({reason})", place=place, allowed=AGAIN) from None

    def _open(self, name: str, entry: FileEntry) -> pa.Table:
        path = self._folder / f"{name}.parquet"
        try:
            if path.exists() and not path.is_file():  # reading a pipe or a device would never end
                raise DamagedResults(f"{path}: this is not a file")
            content = path.read_bytes()
        except OSError as error:
            raise DamagedResults(f"{path}: the bundle's file can't be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DamagedResults(f"{path}: this is not what was exported: its SHA-256 differs from the manifest's")
        try:
            table = parse(content, known_schema(name), rows=entry.rows)
            if table.num_rows != entry.rows:
                raise ValueError(f"it has {table.num_rows} rows, and the manifest counts {entry.rows}")
            check_unique(table, name)
            if name in ROW_KINDS and ROW_KINDS[name].one_row_a_job:
                check_values(table)
                check_settings(table, self._jobs)
            if name == "returned":
                check_returned(table)
        except ValueError as error:
            raise InputError(str(error), place=str(path), allowed=AGAIN) from None
        return table

    def _check_counted(self) -> None:
        """Raise InputError unless every result is that of a job's counted attempt."""
        jobs = self.read("jobs", ["job", "kind", "state", "attempt"]).to_pylist()
        kinds, states = set(KINDS), {one.value for one in State}
        place = str(self._folder / "jobs.parquet")
        if not all(row["kind"] in kinds and row["state"] in states for row in jobs):
            raise InputError("a job is of an unknown kind or state", place=place, allowed=AGAIN)
        lost = {one.job for one in self.lost}
        done = {(row["job"], row["attempt"], row["kind"]) for row in jobs if row["state"] == State.DONE}
        for name, kind in ROW_KINDS.items():
            if name not in self._tables:
                continue
            keys = self.read(name, ["job", "attempt"])
            found = set(zip(keys["job"].to_pylist(), keys["attempt"].to_pylist(), strict=True))
            wanted = {(job, attempt) for job, attempt, of in done if of == kind.of.name}
            place = str(self._folder / f"{name}.parquet")
            if foreign := found - wanted:
                job = str(min(foreign, key=str)[0])[:12]
                problem = f"it has rows of job {job}, of which no such attempt counts"
                raise InputError(problem, place=place, allowed=AGAIN)
            if kind.one_row_a_job and (missing := {one for one in wanted - found if one[0] not in lost}):
                raise InputError(f"the row of job {min(missing)[0][:12]} is missing", place=place, allowed=AGAIN)


def _nulls(table: pa.Table, field: pa.Field) -> pa.Array:
    return pa.nulls(table.num_rows, field.type)
