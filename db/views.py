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
import sqlalchemy as sa

from db.columns import column
from db.schema import SETTINGS
from db.states import State
from db.tables import agents, attempts, events, jobs, sweep_jobs
from db.transaction import Transaction

TIME = pa.timestamp("us", tz="UTC")
CONTENT = "content"
"""Column of `jobs` that holds its settings, as JSON."""

_parents = jobs.alias("parents")
_PARENT = sa.select(_parents.c.identity).where(_parents.c.id == jobs.c.parent_id).scalar_subquery()
_ERROR = (
    sa.select(attempts.c.error)
    .where(attempts.c.job_id == jobs.c.id, attempts.c.attempt == jobs.c.attempt)
    .scalar_subquery()
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One column of a view: where the registry keeps it, and its type."""

    source: sa.ColumnElement[Any]
    type: pa.DataType


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a sweep: its columns, whose table they come from, and the order of its rows."""

    name: str
    columns: Mapping[str, Stored]
    rows: sa.FromClause
    order: tuple[sa.ColumnElement[Any], ...]
    settings: bool = False
    """Whether the settings of the jobs are columns too."""

    @property
    def schema(self) -> pa.Schema:
        fields = [pa.field(name, column.type) for name, column in self.columns.items()]
        return pa.schema([*fields, *(SETTINGS if self.settings else ())])


def _text(source: sa.ColumnElement[Any]) -> Stored:
    return Stored(source=source, type=pa.string())


def _whole(source: sa.ColumnElement[Any]) -> Stored:
    return Stored(source=source, type=pa.int64())


def _time(source: sa.ColumnElement[Any]) -> Stored:
    return Stored(source=source, type=TIME)


MEMBERS = sweep_jobs.join(jobs, jobs.c.id == sweep_jobs.c.job_id)
ATTEMPTS = MEMBERS.join(attempts, attempts.c.job_id == jobs.c.id).join(agents, agents.c.id == attempts.c.agent_id)

VIEWS: dict[str, View] = {
    one.name: one
    for one in (
        View(
            name="jobs",
            columns={
                "job": _text(jobs.c.identity),
                "kind": _text(jobs.c.kind),
                "state": _text(jobs.c.state),
                "attempt": _whole(jobs.c.attempt),
                "diverged": Stored(source=jobs.c.diverged, type=pa.bool_()),
                "parent": _text(_PARENT),
                "failure_class": _text(jobs.c.failure_class),
                "error": _text(_ERROR),
                "progress": _whole(jobs.c.progress),
                "epoch": _whole(jobs.c.epoch),
                "cost": Stored(source=jobs.c.cost, type=pa.float64()),
                "cohort_key": _text(jobs.c.cohort_key),
                "publication": _text(jobs.c.publication),
                "model_file": _text(jobs.c.model_file),
                "model_hash": _text(jobs.c.model_hash),
                "registered_at": _time(jobs.c.registered_at),
                "ended_at": _time(jobs.c.ended_at),
            },
            rows=MEMBERS,
            order=(sweep_jobs.c.job_id,),
            settings=True,
        ),
        View(
            name="attempts",
            columns={
                "job": _text(jobs.c.identity),
                "attempt": _whole(attempts.c.attempt),
                "outcome": _text(attempts.c.outcome),
                "failure_class": _text(attempts.c.failure_class),
                "error": _text(attempts.c.error),
                "started_at": _time(attempts.c.started_at),
                "ended_at": _time(attempts.c.ended_at),
                "resumed_from": _whole(attempts.c.resumed_from),
                "publication": _text(attempts.c.publication),
                "superseded": _text(attempts.c.superseded),
                "agent": _whole(attempts.c.agent_id),
                "host": _text(agents.c.host),
                "pid": _whole(agents.c.pid),
                "backend": _text(agents.c.backend),
                "device": _text(agents.c.device),
                "log": _text(agents.c.log),
            },
            rows=ATTEMPTS,
            order=(sweep_jobs.c.job_id, attempts.c.attempt),
        ),
        View(
            name="events",
            columns={
                "event": _whole(events.c.id),
                "changed_at": _time(events.c.at),
                "job": _text(jobs.c.identity),
                "from_state": _text(events.c.source),
                "to_state": _text(events.c.target),
                "attempt": _whole(events.c.attempt),
                "agent": _whole(events.c.agent_id),
                "detail": _text(events.c.detail),
            },
            rows=MEMBERS.join(events, events.c.job_id == jobs.c.id),
            order=(events.c.id,),
        ),
    )
}
"""What the registry knows of one sweep, by name."""

POINTERS = (
    sa.select(jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
    .select_from(MEMBERS)
    .where(sweep_jobs.c.sweep_id == sa.bindparam("sweep"), jobs.c.state == sa.literal_column(f"'{State.DONE}'"))
    .order_by(sweep_jobs.c.job_id)
)


def read_view(transaction: Transaction, name: str, sweep_id: int, columns: Sequence[str] | None = None) -> pa.Table:
    """These columns (or all) of a view of one sweep: jobs in the order of their registration."""
    view = VIEWS[name]
    names = list(view.schema.names if columns is None else columns)
    stored = {one: view.columns[one].source for one in names if one in view.columns}
    if len(stored) < len(names):
        stored[CONTENT] = jobs.c.content
    chosen = [source.label(f"c{index}") for index, source in enumerate(stored.values())] or [sa.literal(1).label("c0")]
    statement = sa.select(*chosen).select_from(view.rows).where(sweep_jobs.c.sweep_id == sweep_id)
    rows = transaction.run(statement.order_by(*view.order)).all()
    values = dict(zip(stored, zip(*rows, strict=True), strict=False)) if rows else dict.fromkeys(stored, ())
    found = {one: _array(values[one], view.columns[one].type) for one in stored if one != CONTENT}
    if CONTENT in stored:
        found |= _settings(values[CONTENT], [one for one in names if one not in view.columns])
    if not names:  # `count(*)` names none
        return pa.table({"rows": pa.nulls(len(rows))}).select([])
    return pa.table([found[one] for one in names], schema=pa.schema([view.schema.field(one) for one in names]))


def read_pointers(transaction: Transaction, sweep_id: int) -> pa.Table:
    """The pointers of the sweep's done jobs: `job`, `attempt`, `publication`, `kind`, in order of registration."""
    rows = transaction.quick(POINTERS, {"sweep": sweep_id})
    schema = pa.schema([VIEWS["jobs"].schema.field(name) for name in ("job", "attempt", "publication", "kind")])
    columns = [column([row[place] for row in rows], field.type) for place, field in enumerate(schema)]
    return pa.table(columns, schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind != TIME:
        return column(values, kind)
    return column([None if one is None else round(one * 1e6) for one in values], pa.int64()).cast(TIME)


def _settings(contents: Sequence[str], names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The settings `names` of each job. One that a job does not have is null."""
    wanted = pa.schema([field for field in SETTINGS if field.name in names])
    if not contents:
        return {field.name: pa.chunked_array([], field.type) for field in wanted}
    options = pa.json.ParseOptions(
        explicit_schema=pa.schema([pa.field("settings", pa.struct(list(wanted)))]), unexpected_field_behavior="ignore"
    )
    lines = io.BytesIO("\n".join(contents).encode())
    parsed = pa.json.read_json(lines, parse_options=options)["settings"]
    return {field.name: pc.struct_field(parsed, field.name) for field in wanted}
