"""A bundle: one sweep's committed rows as Parquet, with a manifest; answers come from it as from the registry.

The same results give the same files, byte for byte, whenever and wherever they are exported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from db.results import DamagedResults
from db.rows import Sweep
from db.schema import KINDS
from db.schema import VERSION as SCHEMA
from db.states import SweepState
from db.views import VIEWS
from reports.source import Source, check_columns, known_schema
from sweeps.code import release
from sweeps.errors import InputError

FORMAT = 1
"""Raised when a bundle of the old layout can't be read as one of the new."""
MANIFEST = "manifest.json"
PROVENANCE = ("code", "torch", "device")
"""Columns of the results whose distinct values the manifest lists."""


def write_bundle(source: Source, folder: Path) -> dict[str, Any]:
    """Write the sweep to `folder`, complete or not at all; the manifest. Raises InputError if it is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("this is there already", place=f"--out {folder}", allowed="name a new or an empty folder")
    folder = folder.absolute()
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        files = [_write(source, name, temporary) for name in (*KINDS, *VIEWS)]
        manifest = _manifest(source, files)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        _save(temporary / MANIFEST, text.encode())
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"the bundle can't be written: {error.strerror}", place=f"--out {folder}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _write(source: Source, name: str, folder: Path) -> dict[str, Any]:
    table = source.read(name)
    buffer = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    _save(folder / f"{name}.parquet", content)
    return {
        "file": f"{name}.parquet",
        "rows": table.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _save(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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


def sorted_counts(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    """The distinct values of a column and how often each stands there, in the values' order."""
    counted: list[dict[str, Any]] = pc.value_counts(column.combine_chunks()).to_pylist()
    return sorted(counted, key=lambda one: str(one["values"]))


def _distinct(source: Source, column: str) -> list[str]:
    found: set[str] = set()
    for name, kind in KINDS.items():
        if column in kind.columns.names:
            found |= set(pc.unique(source.read(name, [column])[column]).to_pylist())
    return sorted(one for one in found if one is not None)


class BundleSource(Source):
    """A sweep that was exported to a folder. Its files are checked against the manifest when it is opened.

    Raises InputError if the folder is no bundle, DamagedResults if a file is not as it was exported.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = self._read_manifest()
        sweep = manifest["sweep"]
        spec = json.dumps(manifest["spec"], sort_keys=True, separators=(",", ":"), allow_nan=False)
        self.sweep = Sweep(**(sweep | {"id": 0, "spec": spec, "state": SweepState(sweep["state"])}))
        self.called = self.sweep.name  # the only one here
        self._files = {entry["file"] for entry in manifest["files"]}
        for entry in manifest["files"]:
            self._check(entry)

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        check_columns(name, columns)
        schema = known_schema(name)
        schema = pa.schema([schema.field(one) for one in (schema.names if columns is None else columns)])
        if f"{name}.parquet" not in self._files:  # exported before there was such a kind of result
            return schema.empty_table()
        file = pq.ParquetFile(self._folder / f"{name}.parquet")
        there = [one for one in schema.names if one in file.schema_arrow.names]
        table = file.read(columns=there)
        found = {field.name: table[field.name] if field.name in there else _nulls(table, field) for field in schema}
        return pa.table(found, schema=schema) if found else table.select([])

    def place_of(self, kind: str, publication: str) -> str:
        return str(self._folder / f"{kind}.parquet")

    def _read_manifest(self) -> dict[str, Any]:
        path = self._folder / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = manifest["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"this is no bundle: its {MANIFEST} is missing or can't be read",
                place=f"--from {self._folder}",
                allowed="qsweep export NAME --out DIR makes one",
            ) from None
        if version != FORMAT:
            raise InputError(
                f"this bundle has format {version}, this program reads {FORMAT}", place=f"--from {self._folder}"
            )
        return manifest

    def _check(self, entry: dict[str, Any]) -> None:
        path = self._folder / entry["file"]
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DamagedResults(f"{path}: the bundle's file can't be read: {error.strerror}") from None
        if found != entry["sha256"]:
            raise DamagedResults(f"{path}: this is not what was exported: its SHA-256 differs from the manifest's")


def _nulls(table: pa.Table, field: pa.Field) -> pa.Array:
    return pa.nulls(table.num_rows, field.type)
