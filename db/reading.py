"""Looking at the registry (law 5): nothing here changes a row or waits for a writer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.journal import batches
from qsweep.db.looking import job_row
from qsweep.db.outcomes import ASKED
from qsweep.db.rows import (
    AttemptRow,
    Calibration,
    CalibrationRow,
    Committed,
    EventRow,
    JobRow,
    Record,
    Unkept,
)
from qsweep.db.states import HOLDING, FailureClass, State, SweepState
from qsweep.db.tables import RUNNING, calibrations, checkpoints, selections, sweep_jobs
from qsweep.db.tables import agents as agents_table
from qsweep.db.tables import attempts as attempts_table
from qsweep.db.tables import events as events_table
from qsweep.db.tables import jobs as jobs_table
from qsweep.db.tables import sweeps as sweeps_table
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import KINDS, File, kind_named

LAST_ATTEMPT = sa.and_(attempts_table.c.job_id == jobs_table.c.id, attempts_table.c.attempt == jobs_table.c.attempt)
JOB = sa.select(
    *(jobs_table.c[name] for name in JobRow.__dataclass_fields__ if name != "error"),
    sa.func.coalesce(attempts_table.c.error, "").label("error"),
).select_from(jobs_table.outerjoin(attempts_table, LAST_ATTEMPT))


def sharing(transaction: Transaction, job_ids: Sequence[int], sweep_id: int) -> dict[str, int]:
    found: dict[str, int] = {}
    level = list(job_ids)
    while level:
        for batch in batches(level):
            statement = (
                sa.select(sweeps_table.c.name, sweeps_table.c.label, sa.func.count().label("jobs"))
                .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps_table.c.id)
                .where(sweep_jobs.c.job_id.in_(batch), sweeps_table.c.id != sweep_id)
                .group_by(sweeps_table.c.id, sweeps_table.c.name, sweeps_table.c.label)
                .order_by(sweeps_table.c.id)
            )
            for row in transaction.run(statement):
                title = f"{row.name}@{row.label}"
                found[title] = found.get(title, 0) + row.jobs
        level = [
            child
            for batch in batches(level)
            for child in transaction.run(sa.select(jobs_table.c.id).where(jobs_table.c.parent_id.in_(batch))).scalars()
        ]
    return found


def unkept(transaction: Transaction, job_ids: Sequence[int]) -> Unkept:
    """Those of these jobs that are done without the model that a sweep asks for, and whose measures wait for it."""
    leaving = [kind.name for kind in KINDS.values() if kind.leaves is File.MODEL]
    done = sa.and_(jobs_table.c.state == State.DONE.value, jobs_table.c.kind.in_(leaving))
    lacking = sa.and_(done, ASKED, jobs_table.c.model_file.is_(None), sa.not_(jobs_table.c.diverged))
    children, found, measured_by = jobs_table.alias(), set[int](), Counter[str]()
    for batch in batches(job_ids):
        statement = sa.select(jobs_table.c.id).where(jobs_table.c.id.in_(batch), lacking)
        some = list(transaction.run(statement).scalars())
        found.update(some)
        waiting = (
            sa.select(sweeps_table.c.name, sweeps_table.c.label, children.c.parent_id)
            .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps_table.c.id)
            .join(children, children.c.id == sweep_jobs.c.job_id)
            .where(children.c.parent_id.in_(some), children.c.state == State.QUEUED.value)
            .where(sweeps_table.c.state != SweepState.CANCELLED.value)
            .distinct()
        )
        measured_by.update(f"{row.name}@{row.label}" for row in transaction.run(waiting))
    return Unkept(jobs=frozenset(found), measured_by=dict(sorted(measured_by.items())))


def stranded(transaction: Transaction, sweep_id: int) -> int:
    """Jobs that were taken back into the queue after their sweeps had all been cancelled."""
    other, theirs = sweep_jobs.alias(), sweeps_table.alias()
    held = sa.exists().where(
        other.c.job_id == jobs_table.c.id, theirs.c.id == other.c.sweep_id,
        theirs.c.state != SweepState.CANCELLED.value,
    )  # fmt: skip
    statement = (
        sa.select(sa.func.count())
        .select_from(jobs_table.join(sweep_jobs, sweep_jobs.c.job_id == jobs_table.c.id))
        .where(sweep_jobs.c.sweep_id == sweep_id, jobs_table.c.state == State.QUEUED.value, sa.not_(held))
    )
    return int(transaction.run(statement).scalar_one())


def record(transaction: Transaction) -> Record:
    """Everything that an audit holds against each other."""
    holding = sa.select(agents_table.c.id).where(agents_table.c.state.in_([one.value for one in HOLDING]))
    return Record(
        jobs=[job_row(dict(row._mapping)) for row in transaction.run(JOB.order_by(jobs_table.c.id))],
        events=events(transaction, job_id=None, since=0, sweep_id=None, limit=None),
        holders=frozenset(transaction.run(holding).scalars()),
    )


def jobs_of(transaction: Transaction, ids: Sequence[int]) -> list[JobRow]:
    """These jobs as they stand."""
    return [
        job_row(dict(row._mapping))
        for batch in batches(ids)
        for row in transaction.run(JOB.where(jobs_table.c.id.in_(batch)).order_by(jobs_table.c.id))
    ]


def job(transaction: Transaction, prefix: str) -> JobRow:
    if not re.fullmatch(r"[0-9a-f]{1,32}", prefix):
        raise InputError(f"{prefix!r} is no job", allowed="a job is named by the first hex digits of its identity")
    identity = jobs_table.c.identity
    # A range, so that the index serves whatever the collation: "g" comes after every hex digit.
    rows = transaction.run(JOB.where(identity >= prefix, identity < prefix + "g").limit(2)).all()
    if not rows:
        raise InputError(f"there is no job {prefix!r} here", allowed="`qsweep jobs NAME` lists them")
    if len(rows) > 1:
        raise InputError(f"more than one job begins with {prefix!r}", allowed="give more digits")
    return job_row(dict(rows[0]._mapping))


def attempts(transaction: Transaction, job_id: int) -> list[AttemptRow]:
    of_agent = ("host", "pid", "backend", "device", "log", "beat_at")
    columns = [
        (agents_table if name in of_agent else attempts_table).c[name] for name in AttemptRow.__dataclass_fields__
    ]
    statement = (
        sa.select(*columns)
        .join_from(attempts_table, agents_table, agents_table.c.id == attempts_table.c.agent_id)
        .where(attempts_table.c.job_id == job_id)
        .order_by(attempts_table.c.attempt)
    )
    return [_attempt_row(row) for row in transaction.run(statement)]


def _attempt_row(row: Any) -> AttemptRow:
    values = dict(row._mapping)
    values["outcome"] = None if row.outcome is None else State(row.outcome)
    values["failure_class"] = None if row.failure_class is None else FailureClass(row.failure_class)
    if row.ended_at is not None:  # The agent may have lived on with other jobs.
        values["beat_at"] = min(row.beat_at, row.ended_at)
    return AttemptRow(**values)


def events(
    transaction: Transaction, *, job_id: int | None, since: int, sweep_id: int | None, limit: int | None
) -> list[EventRow]:
    statement = sa.select(events_table).where(events_table.c.id > since).order_by(events_table.c.id).limit(limit)
    if job_id is not None:
        statement = statement.where(events_table.c.job_id == job_id)
    if sweep_id is not None:
        members = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id)
        statement = statement.where(events_table.c.job_id.in_(members))
    return [
        EventRow(**(dict(row._mapping) | {"source": State(row.source), "target": State(row.target)}))
        for row in transaction.run(statement)
    ]


def held(transaction: Transaction, sweep_id: int | None, selection: int | None) -> dict[int, int]:
    """How many running jobs each agent holds: of the sweep, or of a selection of them; of all without either."""
    statement = sa.select(jobs_table.c.agent_id, sa.func.count().label("jobs")).where(RUNNING)
    if selection is not None:
        members = sa.select(selections.c.job_id).where(selections.c.selection == selection)
        statement = statement.where(jobs_table.c.id.in_(members))
    elif sweep_id is not None:
        members = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id)
        statement = statement.where(jobs_table.c.id.in_(members))
    rows = transaction.run(statement.group_by(jobs_table.c.agent_id))
    return {row.agent_id: row.jobs for row in rows if row.agent_id is not None}


def committed_job(transaction: Transaction, job_id: int) -> list[Committed]:
    columns = (jobs_table.c.identity, jobs_table.c.attempt, jobs_table.c.publication, jobs_table.c.kind)
    rows = transaction.run(sa.select(*columns).where(jobs_table.c.id == job_id, jobs_table.c.state == State.DONE.value))
    return [
        Committed(job=row.identity, attempt=row.attempt, publication=row.publication, kind=kind_named(row.kind))
        for row in rows
    ]


def newest_event(transaction: Transaction) -> int:
    return int(transaction.run(sa.select(sa.func.coalesce(sa.func.max(events_table.c.id), 0))).scalar_one())


def checkpoint_files(transaction: Transaction) -> set[str]:
    return set(transaction.run(sa.select(checkpoints.c.file)).scalars())


def checkpoint_sums(transaction: Transaction) -> dict[str, str]:
    rows = transaction.run(sa.select(checkpoints.c.file, checkpoints.c.checksum))
    return {row.file: row.checksum for row in rows}


def published(transaction: Transaction) -> set[str]:
    done = attempts_table.c.publication.is_not(None)
    return set(transaction.run(sa.select(attempts_table.c.publication).where(done).distinct()).scalars())


def calibrations_of(transaction: Transaction, shapes: Sequence[str]) -> list[CalibrationRow]:
    rows = transaction.run(sa.select(calibrations).where(calibrations.c.shape.in_(shapes)).order_by(*calibrations.c))
    return [
        CalibrationRow(**{name: getattr(row, name) for name in CalibrationRow.__dataclass_fields__}) for row in rows
    ]


def find_calibration(transaction: Transaction, shape: str, device: str, build: str) -> Calibration | None:
    key = {"shape": shape, "device": device, "build": build}
    row = transaction.run(sa.select(calibrations).filter_by(**key)).first()
    return None if row is None else calibration_of(row)


def calibration_of(row: sa.Row[Any]) -> Calibration:
    return Calibration(slots=row.slots, form=row.form, seconds=row.seconds, peak=row.peak)
