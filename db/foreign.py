"""Results that somebody else may have written: read as rows of their kind, or refused with a ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qsweep.db.schema import CALLED, SETTINGS
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.job import Job
from qsweep.sweeps.returned import has_diverged, read_row
from qsweep.sweeps.settings import canonical, settings_of

LARGEST = 1 << 33
"""Bytes that one file may unpack to."""
TEXT = 4096
"""Characters of a text in a row of results at most."""
OF_CALLS = frozenset(field.name for field in CALLED)
"""Texts of any length: they are those of the job, or have a rule of their own."""
SHARE = "accuracy"
"""Columns whose name ends so lie between 0 and 1."""
AMOUNTS = ("loss", "norm", "distance", "second", "epoch")
"""Columns whose name holds one of these are not negative."""
CALENDAR = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
"""Between these a time has a date."""
KEYS = {
    "epochs": ("job", "epoch"),
    "layers": ("job", "index"),
    "logged": ("job", "step", "name"),
    "synthesis_losses": ("job", "batch", "iteration"),
    "synthetic_images": ("job", "image"),
    "units": ("job", "index"),
    "attempts": ("job", "attempt"),
    "events": ("event",),
    "loads": ("agent", "read_at"),
}
"""The columns that name a row, where it is more than the job."""


def parse(content: bytes, schema: pa.Schema, *, rows: int) -> pa.Table:
    """The columns of `schema` that this Parquet file has.

    Raises ValueError if it is damaged, has more than `rows` rows, or a column twice or of another type.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        found, meta = file.schema_arrow, file.metadata
        if meta.num_rows > rows:
            raise ValueError(f"it has {meta.num_rows} rows, where at most {rows} can be")
        if len(set(found.names)) < len(found.names):
            raise ValueError("a column stands twice")
        for field in found:
            if field.name in schema.names and field.type != schema.field(field.name).type:
                raise ValueError(f"the column {field.name} is {field.type}, not {schema.field(field.name).type}")
        if sum(meta.row_group(place).total_byte_size for place in range(meta.num_row_groups)) > LARGEST:
            raise ValueError(f"it would unpack to more than {LARGEST:,} bytes")
        table = file.read(columns=[name for name in schema.names if name in found.names])
        table.validate(full=True)
        check_times(table)
    except (
        pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError, OverflowError,
        NotImplementedError,
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"it can't be read as results: {reason[:300]}") from None
    return table.replace_schema_metadata(file.schema_arrow.metadata)


def check_times(table: pa.Table) -> None:
    """Raise ValueError for a time outside of the years 1 to 9999, which nothing can show; in lists and structs, too."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        for chunk in column.chunks:
            _check_times(name, chunk)


def _check_times(name: str, values: pa.Array) -> None:
    kind = values.type
    if pa.types.is_date(kind):
        bounds: Sequence[date] = (date.min, date.max)
    elif pa.types.is_timestamp(kind) and kind.unit != "ns":  # which reaches from 1677 to 2262
        bounds = CALENDAR
    else:
        for part in _parts(values):
            _check_times(name, part)
        return
    low, high = (pa.scalar(one, kind) for one in bounds)
    values = values.drop_null()
    if not pc.all(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)), min_count=0).as_py():
        raise ValueError(f"{name} holds a time outside of the years 1 to 9999")


def _parts(values: pa.Array) -> Sequence[pa.Array]:
    """What an array of lists, maps or structs is made of."""
    if isinstance(values, pa.MapArray):
        return (values.keys, values.items)
    if isinstance(values, pa.StructArray | pa.UnionArray):
        return [values.field(place) for place in range(values.type.num_fields)]
    if isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return (values.flatten(),)
    return ()


def check_values(table: pa.Table) -> None:
    """Raise ValueError for a number that is not finite or below its least, an accuracy that is none, or a text
    without end."""
    for field in table.schema:
        values = table[field.name].drop_null()
        if not len(values):
            continue
        if pa.types.is_floating(field.type):
            if not pc.all(pc.is_finite(values)).as_py():
                raise ValueError(f"{field.name} holds a number that is not finite")
            low, high = pc.min_max(values).as_py().values()
            if field.name.endswith(SHARE) and not 0 <= low <= high <= 1:
                raise ValueError(f"{field.name} holds {low if low < 0 else high}, which is no share")
            _check_amount(field.name, low)
        elif pa.types.is_integer(field.type):
            _check_amount(field.name, pc.min(values).as_py())
        elif (
            pa.types.is_string(field.type)
            and field.name not in OF_CALLS
            and pc.max(pc.utf8_length(values)).as_py() > TEXT
        ):
            raise ValueError(f"{field.name} holds a text of more than {TEXT} characters")


def _check_amount(name: str, low: float) -> None:
    if low < 0 and any(word in name for word in AMOUNTS):
        raise ValueError(f"{name} holds {low:g}, which is less than nothing")


def check_returned(table: pa.Table) -> None:
    """Raise ValueError for what no run of the user's code returns, or that does not say whether it diverged."""
    if missing := [name for name in ("returned", "diverged") if name not in table.column_names]:
        raise ValueError(f"it has no column {missing[0]}")
    for text, diverged in zip(table["returned"].to_pylist(), table["diverged"].to_pylist(), strict=True):
        try:
            row = read_row(text or "")
        except ValueError as error:
            raise ValueError(f"returned holds what no run returns: {error}") from None
        if diverged is not has_diverged(row):
            raise ValueError("returned and diverged contradict each other")


def check_unique(table: pa.Table, name: str) -> None:
    """Raise ValueError if a row stands twice: of one job, or of one epoch, layer, attempt or event."""
    keys: Sequence[str] = KEYS.get(name, ("job",))
    if missing := [key for key in keys if key not in table.column_names]:
        raise ValueError(f"it has no column {missing[0]}")
    found = table.select(list(keys)).group_by(list(keys)).aggregate([])
    if any(table[key].null_count for key in keys) or found.num_rows < table.num_rows:
        raise ValueError(f"a row of {name} stands twice, or belongs to none: {', '.join(keys)} name a row")


def check_settings(table: pa.Table, jobs: Mapping[str, Job]) -> None:
    """Raise ValueError for a row that has other settings than its job. Rows of other jobs pass."""
    known = dict.fromkeys((*SETTINGS.names, *(field.name for field in CALLED)))
    names = [name for name in known if name in table.column_names]
    for row in table.select(["job", *names]).to_pylist():
        job = jobs.get(row["job"])
        if job is not None and not is_of(job, row):
            raise ValueError(f"a row of job {job.identity[:12]} has other settings than the job")


def is_of(job: Job, row: Mapping[str, Any]) -> bool:
    """Whether the row has the job's settings, and no others. Files of an older version lack those that came later."""
    if job.call is not None:
        return all(row.get(name) == value for name, value in job.columns().items())
    settings, later = job.columns(), _later(job)
    return all(
        row[name] == _stored(settings.get(name)) if name in row else settings.get(name) is None or name in later
        for name in SETTINGS.names
    )


def _later(job: Job) -> set[str]:
    """The settings of a job that came after the first release, and stand as it was before."""
    parts = [getattr(job.training, name) for name in PARTS if name != "data"]
    asked = [one for one in (*parts, job.measure) if one is not None]
    return {name for one in asked for name in settings_of(one).keys() - canonical(one).keys()}


def _stored(value: object) -> object:
    """A setting as Parquet gives it back."""
    return list(value) if isinstance(value, tuple) else value
