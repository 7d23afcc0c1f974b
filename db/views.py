"""The registry as Arrow tables: what a sweep's jobs, attempts and events say, for queries and reports.

Only the columns asked for are read, and each view by a single statement, so that a million jobs stay quick.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from qsweep.db import looking
from qsweep.db.asking import Asking
from qsweep.db.columns import column
from qsweep.db.schema import SETTINGS
from qsweep.sweeps.kinds import CALL

TIME = pa.timestamp("us", tz="UTC")
CONTENT = "content"
"""Column of `jobs` that holds its settings, as JSON."""

_PARENT = "(SELECT parents.identity FROM jobs AS parents WHERE parents.id = jobs.parent_id)"
_ERROR = "(SELECT attempts.error FROM attempts WHERE attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt)"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One column of a view: where the registry keeps it, in SQL, and its type."""

    source: str
    type: pa.DataType


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a sweep: its columns, whose table they come from, and the order of its rows."""

    name: str
    columns: Mapping[str, Stored]
    rows: str
    order: str
    settings: bool = False
    """Whether the settings of the jobs are columns too."""

    @property
    def schema(self) -> pa.Schema:
        fields = [pa.field(name, column.type) for name, column in self.columns.items()]
        return pa.schema([*fields, *(SETTINGS if self.settings else ())])


def _text(source: str) -> Stored:
    return Stored(source=source, type=pa.string())


def _whole(source: str) -> Stored:
    return Stored(source=source, type=pa.int64())


def _time(source: str) -> Stored:
    return Stored(source=source, type=TIME)


MEMBERS = "sweep_jobs JOIN jobs ON jobs.id = sweep_jobs.job_id"
ATTEMPTS = f"{MEMBERS} JOIN attempts ON attempts.job_id = jobs.id JOIN agents ON agents.id = attempts.agent_id"
LOADS = """
    (SELECT DISTINCT sweep_jobs.sweep_id, attempts.agent_id
     FROM sweep_jobs JOIN attempts ON attempts.job_id = sweep_jobs.job_id) AS sweep_jobs
    JOIN loads ON loads.agent_id = sweep_jobs.agent_id JOIN agents ON agents.id = loads.agent_id
"""
"""Of the agents that have worked for the sweep."""

VIEWS: dict[str, View] = {
    one.name: one
    for one in (
        View(
            name="jobs",
            columns={
                "job": _text("jobs.identity"),
                "kind": _text("jobs.kind"),
                "state": _text("jobs.state"),
                "attempt": _whole("jobs.attempt"),
                "diverged": Stored(source="jobs.diverged", type=pa.bool_()),
                "parent": _text(_PARENT),
                "failure_class": _text("jobs.failure_class"),
                "error": _text(_ERROR),
                "progress": _whole("jobs.progress"),
                "epoch": _whole("jobs.epoch"),
                "cost": Stored(source="jobs.cost", type=pa.float64()),
                "cohort_key": _text("jobs.cohort_key"),
                "publication": _text("jobs.publication"),
                "model_file": _text("jobs.model_file"),
                "model_hash": _text("jobs.model_hash"),
                "registered_at": _time("jobs.registered_at"),
                "ended_at": _time("jobs.ended_at"),
            },
            rows=MEMBERS,
            order="sweep_jobs.job_id",
            settings=True,
        ),
        View(
            name="attempts",
            columns={
                "job": _text("jobs.identity"),
                "attempt": _whole("attempts.attempt"),
                "outcome": _text("attempts.outcome"),
                "failure_class": _text("attempts.failure_class"),
                "error": _text("attempts.error"),
                "started_at": _time("attempts.started_at"),
                "ended_at": _time("attempts.ended_at"),
                "resumed_from": _whole("attempts.resumed_from"),
                "publication": _text("attempts.publication"),
                "superseded": _text("attempts.superseded"),
                "agent": _whole("attempts.agent_id"),
                "host": _text("agents.host"),
                "pid": _whole("agents.pid"),
                "backend": _text("agents.backend"),
                "device": _text("agents.device"),
                "log": _text("agents.log"),
            },
            rows=ATTEMPTS,
            order="sweep_jobs.job_id, attempts.attempt",
        ),
        View(
            name="loads",
            columns={
                "agent": _whole("loads.agent_id"),
                "read_at": _time("loads.at"),
                "processor": Stored(source="loads.processor", type=pa.float64()),
                "memory": _whole("loads.memory"),
                "gpu": Stored(source="loads.gpu", type=pa.float64()),
                "gpu_memory": _whole("loads.gpu_memory"),
                "host": _text("agents.host"),
                "device": _text("agents.device"),
            },
            rows=LOADS,
            order="loads.agent_id, loads.at",
        ),
        View(
            name="events",
            columns={
                "event": _whole("events.id"),
                "changed_at": _time("events.at"),
                "job": _text("jobs.identity"),
                "from_state": _text("events.source"),
                "to_state": _text("events.target"),
                "attempt": _whole("events.attempt"),
                "agent": _whole("events.agent_id"),
                "detail": _text("events.detail"),
            },
            rows=f"{MEMBERS} JOIN events ON events.job_id = jobs.id",
            order="events.id",
        ),
    )
}
"""What the registry knows of one sweep, by name."""


def read_view(asking: Asking, name: str, sweep_id: int, columns: Sequence[str] | None = None) -> pa.Table:
    """These columns (or all) of a view of one sweep: jobs in the order of their registration."""
    view = VIEWS[name]
    names = list(view.schema.names if columns is None else columns)
    stored = {one: view.columns[one].source for one in names if one in view.columns}
    if len(stored) < len(names):
        stored[CONTENT] = "jobs.content"
    rest = f"FROM {view.rows} WHERE sweep_jobs.sweep_id = :sweep ORDER BY {view.order}"
    rows = asking.ask(f"SELECT {', '.join(stored.values()) or '1'} {rest}", {"sweep": sweep_id})
    values = dict(zip(stored, zip(*rows, strict=True), strict=False)) if rows else dict.fromkeys(stored, ())
    found = {one: _array(values[one], view.columns[one].type) for one in stored if one != CONTENT}
    if CONTENT in stored:
        found |= _settings(values[CONTENT], [one for one in names if one not in view.columns])
    if not names:  # `count(*)` names none
        return pa.table({"rows": pa.nulls(len(rows))}).select([])
    return pa.table([found[one] for one in names], schema=pa.schema([view.schema.field(one) for one in names]))


def read_pointers(asking: Asking, sweep_id: int, ids: Sequence[int] | None = None) -> pa.Table:
    """The pointers of the sweep's done jobs, or of these: `job`, `attempt`, `publication`, `kind`, in order of
    registration."""
    rows = looking.pointers(asking, sweep_id, ids=ids)
    schema = pa.schema([VIEWS["jobs"].schema.field(name) for name in ("job", "attempt", "publication", "kind")])
    columns = [column([row[place] for row in rows], field.type) for place, field in enumerate(schema)]
    return pa.table(columns, schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind != TIME:
        return column(values, kind)
    return column([None if one is None else round(one * 1e6) for one in values], pa.int64()).cast(TIME)


CALLED, EMPTY = f'"kind":"{CALL.name}"', '{"settings":{}}'
"""Jobs that call the user's code have settings of any name and type: their own view has them."""


def _settings(contents: Sequence[str], names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The settings `names` of each job. One that a job does not have is null."""
    wanted = pa.schema([field for field in SETTINGS if field.name in names])
    if not contents:
        return {field.name: pa.chunked_array([], field.type) for field in wanted}
    options = pa.json.ParseOptions(
        explicit_schema=pa.schema([pa.field("settings", pa.struct(list(wanted)))]), unexpected_field_behavior="ignore"
    )
    lines = io.BytesIO("\n".join(EMPTY if CALLED in one else one for one in contents).encode())
    parsed = pa.json.read_json(lines, parse_options=options)["settings"]
    return {field.name: pc.struct_field(parsed, field.name) for field in wanted}
