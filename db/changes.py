"""Looks that are repeated: what has changed since the last one, each bounded, or one scan of an index or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import looking
from qsweep.db.rows import Change, Done, Inventory
from qsweep.db.states import State
from qsweep.db.tables import RUNNING, events, jobs, selections, sweep_jobs
from qsweep.db.transaction import Transaction

UNSETTLED = 2_000
"""Of so many newest events some may still be uncommitted while later ones are."""
NEWEST = 20_000
"""How many of the registry's newest events are searched for those of one sweep."""
_CHANGE = (
    *(events.c[name] for name in ("id", "job_id", "at", "source", "target", "agent_id", "attempt", "detail")),
    *(jobs.c[name] for name in ("identity", "kind", "cohort_key", "cost", "publication", "diverged")),
)


def recent_changes(transaction: Transaction, sweep_id: int, limit: int) -> list[Change]:
    newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
    statement = _changes(sweep_id).where(events.c.id > newest - NEWEST).order_by(events.c.id.desc()).limit(limit)
    return [_change(row) for row in transaction.run(statement)]


def done_after(transaction: Transaction, sweep_id: int, job_id: int, limit: int) -> list[Done]:
    member = sa.exists().where(sweep_jobs.c.job_id == jobs.c.id, sweep_jobs.c.sweep_id == sweep_id)
    statement = (
        sa.select(jobs.c.id, jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
        .where(jobs.c.id > job_id, jobs.c.state == State.DONE.value, member)
        .order_by(jobs.c.id)
        .limit(limit)
    )
    return [Done(**row._mapping) for row in transaction.run(statement)]


def news(
    transaction: Transaction,
    sweep_id: int,
    selection: int | None,
    wanted: Sequence[tuple[int, int | None]],
    limit: int,
) -> tuple[list[int], list[Change]]:
    stretches = [events.c.id >= first if last is None else events.c.id.between(first, last) for first, last in wanted]
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


def inventory(transaction: Transaction, sweep_id: int, selection: int | None) -> Inventory:
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
