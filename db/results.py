"""The result store: one Parquet file per kind and publication. Only what the registry points to counts."""

from __future__ import annotations

import math
import os
import re
import stat
import time
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as fs
import pyarrow.parquet as pq

from qsweep.db.columns import column, table_of_rows, text
from qsweep.db.schema import ROW_KINDS, VERSION, RowKind
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.kinds import Kind
from qsweep.sweeps.wholefiles import write_whole

FILE = "__file"
"""The column of what is read that holds the place of each row's file."""
IDENTITY = "STORE"
"""The file of a store by which its registry knows it again."""
SMALL = 10_000
"""Rows of a file up to which handing its columns to threads costs more than reading them."""
UNREADABLE = (pa.ArrowException, OSError, MemoryError, ValueError, KeyError)
"""What reading a damaged file may raise."""


class Pointer(Protocol):
    """What `Registry.committed` returns: whose rows, of which attempt, in which publication; the job's kind."""

    @property
    def job(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def publication(self) -> str: ...
    @property
    def kind(self) -> Kind: ...


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file by its path below a folder or a store, its size in bytes, and when it was written (Unix seconds)."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, kw_only=True)
class StoreMark:
    """Whose a store is: the identity by which its registry knows it, that registry's incarnation, and where it was."""

    identity: str
    incarnation: str
    seat: str


class DamagedResults(QsweepError):
    """A committed file is missing, unreadable or lacks rows that the registry counts."""


class VanishedResults(DamagedResults):
    """A committed file is gone: lost, or replaced by a compaction since the pointers were read."""


class ResultStore:
    """Results in a folder, or at a URL that pyarrow knows (`s3://…`, `gs://…`).

    A file appears whole or not at all: in a folder by a temporary name, fsync and rename, at a URL by one
    put. It counts for nothing until a finish in the registry points to it.
    """

    def __init__(self, place: Path | str) -> None:
        self._files: fs.FileSystem
        if isinstance(place, Path) or "://" not in place:
            self._files, self._root = fs.LocalFileSystem(), str(Path(place).expanduser().absolute())
        else:
            self._files, self._root = open_url(place)
        self.place = str(place)

    def write(self, kind: str, publication: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publishes rows of one kind under a name that nobody used before. Missing columns become null, and
        numbers that are not finite: no reader admits them."""
        columns = ROW_KINDS[kind].columns
        unknown = set[str]().union(*(row.keys() for row in rows)) - set(columns.names)
        assert not unknown, f"{kind} has no columns {sorted(unknown)}"
        self.write_table(kind, publication, table_of_rows([_finite(row) for row in rows], columns))

    def write_table(self, kind: str, publication: str, table: pa.Table) -> None:
        """Publishes a table that has the columns of its kind.

        Of a job's one wide row the columns in which nobody has a value are left out: what a small file says of its
        columns is most of it, and takes a reader of two columns most of its time.
        """
        wide = ROW_KINDS[kind].one_row_a_job and table.num_rows > 0
        told = [one for one in table.column_names if not wide or table[one].null_count < table.num_rows]
        labelled = table.select(told).replace_schema_metadata({"qsweep.kind": kind, "qsweep.schema": str(VERSION)})
        buffer = pa.BufferOutputStream()
        pq.write_table(labelled, buffer, compression="zstd", write_page_checksum=True)
        self._put(self._path(kind, publication), buffer.getvalue(), at="parquet")

    def adopt(self, kind: str, publication: str, content: bytes) -> None:
        """Publishes a file that another store wrote, byte for byte: it keeps its provenance."""
        self._put(self._path(kind, publication), pa.py_buffer(content), at="parquet")

    def read(
        self, kind: str, committed: Iterable[Pointer] | pa.Table, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows that these pointers count, in the pointers' order; those of jobs of another kind have none.

        The pointers are values or a table of them (`Registry.pointers`); each job stands there once. Raises
        DamagedResults.
        """
        known = ROW_KINDS[kind]
        pointers = committed if isinstance(committed, pa.Table) else table_of(committed)
        pointers = pointers.filter(pc.equal(pointers["kind"], text(known.of.name)))
        pointers = pointers.combine_chunks()
        names = list(known.columns.names if columns is None else columns)
        schema = pa.schema([known.columns.field(name) for name in names])
        if not pointers.num_rows:
            return schema.empty_table()
        wanted = dict.fromkeys(["job", "attempt", *names])
        publications = pc.unique(pointers["publication"]).to_pylist()
        paths = [self._path(kind, publication) for publication in publications]
        for path in paths:
            self._check_file(path)
        try:
            if isinstance(self._files, fs.LocalFileSystem):
                table = _joined([self._read_columns(path, known, wanted) for path in paths], known, wanted)
            else:
                table = self._read_together(paths, known, wanted)
        except FileNotFoundError as error:
            raise VanishedResults(f"a results file that the registry counts is gone: {error}") from None
        except UNREADABLE as error:
            raise DamagedResults(f"a results file can't be read: {error}") from None
        files = pc.index_in(pointers["publication"], value_set=column(publications, pa.string()))
        return _counted(table, pointers, files, known, self.place).select(names).cast(schema)

    def _read_columns(self, path: str, kind: RowKind, names: Collection[str]) -> pa.Table:
        """Those of these columns that a file has, with the types of its kind."""
        with self._files.open_input_file(path) as source:
            # With what it lacks left out, and nothing else asked of each file: there may be tens of thousands.
            found = _read(pq.ParquetFile(source, page_checksum_verification=True), names)
        known = pa.schema([kind.columns.field(name) for name in found.column_names])
        return found.cast(known) if found.schema != known else found

    def _read_together(self, paths: Sequence[str], known: RowKind, names: Iterable[str]) -> pa.Table:
        """The same of all these files, where each read is a request: many at a time, and ahead."""
        import pyarrow.dataset as ds  # here: it takes longer to import than a look at small files takes

        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=True)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
        # The schema given, a file that lacks a column has nulls in it, and one that has more loses the rest.
        found = ds.dataset(list(paths), known.columns, parquet, self._files).to_table([*names, "__fragment_index"])
        return found.rename_columns([*names, FILE])

    def jobs_in(self, kind: str, publication: str) -> list[str]:
        """The jobs that have rows of this kind in a publication, counted or not. Raises DamagedResults."""
        path = self._path(kind, publication)
        self._check_file(path)
        try:
            jobs: list[str] = self._read_columns(path, ROW_KINDS[kind], ["job"])["job"].to_pylist()
        except FileNotFoundError as error:
            raise VanishedResults(f"a results file that the registry counts is gone: {error}") from None
        except UNREADABLE as error:
            raise DamagedResults(f"a results file can't be read: {error}") from None
        return jobs

    def read_file(self, kind: str, publication: str) -> pa.Table:
        """All rows of one file with every column that is known, counted or not. Raises DamagedResults."""
        path = self._path(kind, publication)
        self._check_file(path, "is not a file")
        try:
            with self._files.open_input_file(path) as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                there = set(file.schema_arrow.names)  # made anew each time that it is asked for
                known = [one for one in ROW_KINDS[kind].columns.names if one in there]
                table = _read(file, known)
            table.validate(full=True)
            return table.select(["job", "attempt", *(one for one in known if one not in ("job", "attempt"))])
        except FileNotFoundError:
            raise VanishedResults("is gone") from None
        except UNREADABLE as error:
            raise DamagedResults(f"can't be read ({' '.join(str(error).split())})") from None

    def publications(self, kind: str) -> set[str]:
        """Every publication of this kind that lies in the store, counted or not."""
        names = (Path(one.name).name for one in self.files(kind))
        return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet") and name[0] != "."}

    def holds(self, kind: str, publication: str) -> bool:
        """Whether that file lies in the store."""
        return bool(self._files.get_file_info(self._path(kind, publication)).type == fs.FileType.File)

    def files(self, kind: str | None = None) -> list[StoredFile]:
        """Every file that lies in the store, or in the folder of one kind, in the order of their names."""
        if isinstance(self._files, fs.LocalFileSystem):
            found = list_files(Path(self._root) / (kind or ""))
        else:
            below = f"{self._root}/{kind}" if kind else self._root
            infos = self._files.get_file_info(fs.FileSelector(below, recursive=True, allow_not_found=True))
            found = [
                StoredFile(name=one.path[len(below) :].lstrip("/"), size=one.size or 0, modified=_seconds(one))
                for one in infos
                if one.type == fs.FileType.File
            ]
        return sorted(found, key=lambda one: one.name)

    def delete(self, name: str) -> bool:
        """Deletes a file of `files`; whether it was still there."""
        try:
            self._files.delete_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return False
        return True

    def discard(self, publication: str, kinds: Iterable[str]) -> None:
        """Deletes what is there of a publication that never counted."""
        for kind in kinds:
            self.delete(f"{kind}/{publication}.parquet")

    def identity(self) -> str | None:
        """By what the store's registry knows it again; None if no registry has taken it yet."""
        mark = self.mark()
        return None if mark is None else mark.identity

    def mark(self) -> StoreMark | None:
        """What the registry that has taken the store has written there; None if none has."""
        place = f"{self._root}/{IDENTITY}"
        try:
            if isinstance(self._files, fs.LocalFileSystem) and not stat.S_ISREG(os.stat(place).st_mode):
                raise InputError("this is no plain file", place=place, allowed="move it away")
            with self._files.open_input_file(place) as file:
                lines = [*bytes(file.read()).decode(errors="replace").strip().split("\n"), "", ""]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise QsweepError(f"{self.place}: the results can't be looked at: {error}") from None
        identity, incarnation, seat = (line.strip() for line in lines[:3])
        return StoreMark(identity=identity, incarnation=incarnation, seat=seat) if identity else None

    def take(self, identity: str, incarnation: str = "", seat: str = "") -> None:
        """Writes into the store whose it is. `seat`: where that registry lies, for people."""
        lines = "\n".join(filter(None, (identity, incarnation, seat)))
        self._put(f"{self._root}/{IDENTITY}", pa.py_buffer(f"{lines}\n".encode()))

    def path(self, kind: str, publication: str) -> str:
        """Where that file lies or would lie, as a path of the file system."""
        return self._path(kind, publication)

    def has_unknown(self, kind: str, publication: str) -> bool:
        """Whether a newer version wrote that file, with columns or meanings that this one does not know."""
        path = self._path(kind, publication)
        self._check_file(path)
        try:
            with self._files.open_input_file(path) as file:
                schema = pq.read_schema(file)
        except FileNotFoundError as error:
            raise VanishedResults(f"a results file that the registry counts is gone: {error}") from None
        except UNREADABLE as error:
            raise DamagedResults(f"a results file can't be read: {error}") from None
        version = int((schema.metadata or {}).get(b"qsweep.schema", VERSION))
        return version > VERSION or not set(schema.names) <= set(ROW_KINDS[kind].columns.names)

    def _check_file(self, path: str, why: str | None = None) -> None:
        """Raise DamagedResults, and say why, if no file lies there: opening a pipe or a device would never end."""
        if not isinstance(self._files, fs.LocalFileSystem):
            return
        with suppress(OSError):  # whatever is the matter with it, opening it tells
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise DamagedResults(why or f"{path}: this is not a file")

    def _path(self, kind: str, publication: str) -> str:
        assert kind in ROW_KINDS, f"{kind} is not a kind of result"
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", publication), f"{publication!r} is no publication"
        return f"{self._root}/{kind}/{publication}.parquet"

    def _put(self, path: str, content: pa.Buffer, *, at: str | None = None) -> None:
        if isinstance(self._files, fs.LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), memoryview(content), at=at)
        else:
            with self._files.open_output_stream(path) as stream:
                stream.write(content)


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without its numbers that are not finite."""
    return {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}


def _joined(parts: Sequence[pa.Table], kind: RowKind, names: Iterable[str]) -> pa.Table:
    """The rows of files one after another, nulls where a file lacks a column, and the place of the file of each."""
    nothing = pa.table({name: column([], kind.columns.field(name).type) for name in names})  # without pandas
    table = pa.concat_tables([nothing, *parts], promote_options="default")
    places = array("i")
    for place, part in enumerate(parts):
        places.extend(array("i", [place]) * part.num_rows)
    return table.append_column(FILE, pa.Array.from_buffers(pa.int32(), len(places), [None, pa.py_buffer(places)]))


def _read(file: pq.ParquetFile, columns: Collection[str]) -> pa.Table:
    """Those of these columns that the file has."""
    table: pa.Table = file.read(columns=list(columns), use_threads=file.metadata.num_rows > SMALL)
    return table


def open_url(url: str) -> tuple[fs.FileSystem, str]:
    """The file system that a URL names, and the path in it."""
    files, root = fs.FileSystem.from_uri(url)
    return files, root


def table_of(pointers: Iterable[Pointer]) -> pa.Table:
    """These pointers as `Registry.pointers` has them."""
    listed = list(pointers)
    return pa.table(
        {
            "job": column([one.job for one in listed], pa.string()),
            "attempt": column([one.attempt for one in listed], pa.int64()),
            "publication": column([one.publication for one in listed], pa.string()),
            "kind": column([one.kind.name for one in listed], pa.string()),
        }
    )


def _counted(table: pa.Table, pointers: pa.Table, files: pa.Array, kind: RowKind, place: str) -> pa.Table:
    """The rows whose job, attempt and file are exactly those of a pointer, in the pointers' order."""
    table = table.combine_chunks()
    order = pc.index_in(table["job"], value_set=pointers["job"])
    counts = pc.and_(
        pc.equal(table["attempt"], pc.take(pointers["attempt"], order)), pc.equal(table[FILE], pc.take(files, order))
    )
    table = table.append_column("order", order).filter(counts)  # null where there is no pointer: filtered out
    if kind.one_row_a_job and table.num_rows != pointers.num_rows:
        raise DamagedResults(
            f"{place}: the registry counts {pointers.num_rows} {kind.name}, their files hold {table.num_rows}"
        )
    return table.take(pc.sort_indices(table, sort_keys=[("order", "ascending")]))


def list_files(folder: Path) -> list[StoredFile]:
    """Every file below a folder. One that goes away meanwhile is not there."""
    found = []
    for parent, _, names in os.walk(folder):
        below = Path(parent).relative_to(folder).as_posix()
        before = "" if below == "." else f"{below}/"
        for name in names:  # tens of thousands in one folder: a Path of each would take longer than its stat
            try:
                status = os.stat(f"{parent}/{name}", follow_symlinks=False)
            except OSError:
                continue
            found.append(StoredFile(name=f"{before}{name}", size=status.st_size, modified=status.st_mtime))
    return found


def _seconds(info: fs.FileInfo) -> float:
    """When it was written; an object store that does not say is taken to have it from just now."""
    return time.time() if info.mtime is None else float(info.mtime.timestamp())
