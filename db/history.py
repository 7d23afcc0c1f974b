"""What became of the jobs (law 5): nothing here changes a row or waits for a writer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import looking
from qsweep.db.looking import job_row
from qsweep.db.parts import Part, reads, reads_at_once
from qsweep.db.rows import AttemptRow, Change, Curve, Done, EventRow, Inventory, JobRow, Record
from qsweep.db.states import HOLDING, FailureClass, State
from qsweep.db.tables import RUNNING, agents, attempts, curves, events, jobs, selections, sweep_jobs
from qsweep.db.transaction import Transaction

LAST_ATTEMPT = sa.and_(attempts.c.job_id == jobs.c.id, attempts.c.attempt == jobs.c.attempt)
JOB = sa.select(
    *(jobs.c[name] for name in JobRow.__dataclass_fields__ if name != "error"),
    sa.func.coalesce(attempts.c.error, "").label("error"),
).select_from(jobs.outerjoin(attempts, LAST_ATTEMPT))
UNSETTLED = 2_000
"""Of so many newest events some may still be uncommitted while later ones are."""
NEWEST = 20_000
"""How many of the registry's newest events are searched for those of one sweep."""


class History(Part):
    """What became of the jobs: attempts, events, and the curves of trainings that are not done.

    Consistency: reading never changes state, creates no file and waits for no writer (law 5). Each look that a watcher
    repeats is bounded, or one scan of an index or of the sweep.
    """

    @reads
    def attempts(self, transaction: Transaction, job_id: int) -> list[AttemptRow]:
        """Every execution of the job, the first one first."""
        of_agent = ("host", "pid", "backend", "device", "log", "beat_at")
        columns = [(agents if name in of_agent else attempts).c[name] for name in AttemptRow.__dataclass_fields__]
        statement = (
            sa.select(*columns)
            .join_from(attempts, agents, agents.c.id == attempts.c.agent_id)
            .where(attempts.c.job_id == job_id)
            .order_by(attempts.c.attempt)
        )
        return [_attempt_row(row) for row in transaction.run(statement)]

    @reads_at_once
    def record(self, transaction: Transaction) -> Record:
        """All jobs and events, at one moment."""
        holding = sa.select(agents.c.id).where(agents.c.state.in_([one.value for one in HOLDING]))
        return Record(
            jobs=[job_row(dict(row._mapping)) for row in transaction.run(JOB.order_by(jobs.c.id))],
            events=_events(transaction, job_id=None, since=0, sweep_id=None, limit=None),
            holders=frozenset(transaction.run(holding).scalars()),
        )

    @reads
    def events(
        self,
        transaction: Transaction,
        job_id: int | None = None,
        *,
        since: int = 0,
        sweep_id: int | None = None,
        limit: int | None = None,
    ) -> list[EventRow]:
        """The events after the event `since`, of one job, one sweep or all, in order."""
        return _events(transaction, job_id=job_id, since=since, sweep_id=sweep_id, limit=limit)

    @reads
    def newest_event(self, transaction: Transaction) -> int:
        """The number of the newest event: it changes whenever a job does."""
        return int(transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one())

    @reads
    def recent_changes(self, transaction: Transaction, sweep_id: int, limit: int) -> list[Change]:
        """Up to `limit` of the sweep's newest events, the newest first."""
        newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
        statement = _changes(sweep_id).where(events.c.id > newest - NEWEST).order_by(events.c.id.desc()).limit(limit)
        return [_change(row) for row in transaction.run(statement)]

    @reads
    def done_after(self, transaction: Transaction, sweep_id: int, job_id: int, limit: int) -> list[Done]:
        """Up to `limit` of the sweep's done jobs beyond `job_id`, in order of registration."""
        member = sa.exists().where(sweep_jobs.c.job_id == jobs.c.id, sweep_jobs.c.sweep_id == sweep_id)
        statement = (
            sa.select(jobs.c.id, jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
            .where(jobs.c.id > job_id, jobs.c.state == State.DONE.value, member)
            .order_by(jobs.c.id)
            .limit(limit)
        )
        return [Done(**row._mapping) for row in transaction.run(statement)]

    @reads
    def news(
        self,
        transaction: Transaction,
        sweep_id: int,
        selection: int | None,
        wanted: Sequence[tuple[int, int | None]],
        limit: int,
    ) -> tuple[list[int], list[Change]]:
        """Up to `limit` of the registry's events with these numbers (stretches of them, first and last), in order:
        their numbers, and those that are of the sweep, or of a selection of its jobs."""
        stretches = [
            events.c.id >= first if last is None else events.c.id.between(first, last) for first, last in wanted
        ]
        mine = _member(sweep_id, selection).label("mine")
        statement = (
            sa.select(*_CHANGE, mine)
            .join(jobs, jobs.c.id == events.c.job_id)
            .where(events.c.id >= min(first for first, _ in wanted), sa.or_(*stretches))
            .order_by(events.c.id)
            .limit(limit)
        )
        rows = transaction.run(statement).all()
        return [row.id for row in rows], [_change(row) for row in rows if row.mine]

    @reads_at_once
    def inventory(self, transaction: Transaction, sweep_id: int, selection: int | None) -> Inventory:
        """How the jobs of the sweep, or of a selection, stand, and which events that takes in."""
        mine = _member(sweep_id, selection, jobs.c.id)
        running = sa.select(jobs.c.id, jobs.c.agent_id).where(RUNNING, jobs.c.agent_id.is_not(None), mine)
        newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
        seen = sa.select(events.c.id).where(events.c.id > newest - UNSETTLED).order_by(events.c.id)
        return Inventory(
            counts=looking.counts(transaction, sweep_id, selection),
            work=work_of(transaction, sweep_id, selection),
            holders={row.id: row.agent_id for row in transaction.run(running)},
            newest=int(newest),
            seen=tuple(transaction.run(seen).scalars()),
        )

    @reads
    def curves(self, transaction: Transaction, sweep_id: int) -> list[Curve]:
        """The epochs so far of the sweep's trainings that are not done."""
        member = sa.exists().where(sweep_jobs.c.job_id == jobs.c.id, sweep_jobs.c.sweep_id == sweep_id)
        statement = (
            sa.select(*_COLUMNS)
            .join_from(curves, jobs, jobs.c.id == curves.c.job_id)
            .where(jobs.c.state != State.DONE.value, member)
            .order_by(jobs.c.id)
        )
        return [_curve(row) for row in transaction.run(statement)]

    @reads
    def curve(self, transaction: Transaction, job_id: int) -> list[Curve]:
        """The epochs so far of one job, if it is not done and has told any."""
        statement = sa.select(*_COLUMNS).join_from(curves, jobs, jobs.c.id == curves.c.job_id)
        rows = transaction.run(statement.where(jobs.c.id == job_id, jobs.c.state != State.DONE.value))
        return [_curve(row) for row in rows]


def _events(
    transaction: Transaction, *, job_id: int | None, since: int, sweep_id: int | None, limit: int | None
) -> list[EventRow]:
    statement = sa.select(events).where(events.c.id > since).order_by(events.c.id).limit(limit)
    if job_id is not None:
        statement = statement.where(events.c.job_id == job_id)
    if sweep_id is not None:
        members = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id)
        statement = statement.where(events.c.job_id.in_(members))
    return [
        EventRow(**(dict(row._mapping) | {"source": State(row.source), "target": State(row.target)}))
        for row in transaction.run(statement)
    ]


def _attempt_row(row: Any) -> AttemptRow:
    values = dict(row._mapping)
    values["outcome"] = None if row.outcome is None else State(row.outcome)
    values["failure_class"] = None if row.failure_class is None else FailureClass(row.failure_class)
    if row.ended_at is not None:  # The agent may have lived on with other jobs.
        values["beat_at"] = min(row.beat_at, row.ended_at)
    return AttemptRow(**values)


_CHANGE = (
    *(events.c[name] for name in ("id", "job_id", "at", "source", "target", "agent_id", "attempt", "detail")),
    *(jobs.c[name] for name in ("identity", "kind", "cohort_key", "cost", "publication", "diverged")),
)


def _member(
    sweep_id: int, selection: int | None, job: sa.ColumnElement[int] = events.c.job_id
) -> sa.ColumnElement[bool]:
    if selection is not None:
        return sa.exists().where(selections.c.job_id == job, selections.c.selection == selection)
    return sa.exists().where(sweep_jobs.c.job_id == job, sweep_jobs.c.sweep_id == sweep_id)


def _changes(sweep_id: int) -> sa.Select[Any]:
    return sa.select(*_CHANGE).join(jobs, jobs.c.id == events.c.job_id).where(_member(sweep_id, None))


def _change(row: Any) -> Change:
    values = {name: value for name, value in row._mapping.items() if name != "mine"}
    states = {"source": State(row.source), "target": State(row.target), "diverged": bool(row.diverged)}
    return Change(**(values | states))


def work_of(transaction: Transaction, sweep_id: int, selection: int | None = None) -> dict[State, float]:
    """The estimated operations of the jobs of a sweep, or of a selection, in each state."""
    columns = (jobs.c.state, sa.func.sum(jobs.c.cost).label("cost"))
    at_home = sa.select(*columns).where(jobs.c.home == sweep_id)
    shared = (
        sa.select(*columns)
        .join(sweep_jobs, sweep_jobs.c.job_id == jobs.c.id)
        .where(sweep_jobs.c.sweep_id == sweep_id, sweep_jobs.c.shared == sa.true())
    )
    chosen = sa.select(*columns).join(selections, selections.c.job_id == jobs.c.id)
    found = dict.fromkeys(State, 0.0)
    for statement in (at_home, shared) if selection is None else (chosen.where(selections.c.selection == selection),):
        for row in transaction.run(statement.group_by(jobs.c.state)):
            found[State(row.state)] += float(row.cost)
    return found


_COLUMNS = (jobs.c.identity, jobs.c.state, jobs.c.content, curves.c.attempt, curves.c.epochs)


def _curve(row: Any) -> Curve:
    return Curve(
        job=row.identity,
        state=State(row.state),
        attempt=row.attempt,
        content=row.content,
        epochs=tuple(json.loads(row.epochs)),
    )
