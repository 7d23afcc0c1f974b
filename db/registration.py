"""How sweeps and their jobs come into the registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from db.clock import wall
from db.connection import Database, Transaction
from db.journal import move
from db.reading import SWEEP, sweep_of
from db.rows import Registered, Sweep
from db.states import State, SweepState
from db.tables import jobs, sweep_jobs, sweeps
from sweeps.errors import InputError
from sweeps.job import Job

CHUNK = 5_000
"""Jobs per transaction: others wait for it a few tenths of a second at most."""

# A chunk is loaded here first, a temporary table of this connection, and goes on as a set.
staged = sa.Table(
    "qsweep_staged",
    sa.MetaData(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("identity", sa.String(32), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("cohort_key", sa.Text, nullable=False),
    sa.Column("precision", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("parent", sa.String(32)),
    prefixes=["TEMPORARY"],
)
LOADED = ("position", "identity", "kind", "cost", "cohort_key", "precision", "content", "parent")
FRESH: dict[str, Any] = {
    "state": State.QUEUED.value, "progress": 0, "epoch": 0, "alone": False, "crashes": 0, "losses": 0,
    "advanced": False, "attempt": 0, "has_children": False, "diverged": False,
}  # fmt: skip
AWAKE: dict[str, Any] = {"not_before": None, "ended_at": None}


def add_sweep(
    transaction: Transaction, *, name: str, label: str, spec: str, size: int, owner: str, code: str, keep: str
) -> Sweep:
    transaction.run(
        transaction.insert(sweeps)
        .values(
            name=name, label=label, spec=spec, size=size, owner=owner, code=code, keep=keep, reason="",
            state=SweepState.ACTIVE.value, watched_from=0, created_at=wall(), launched_at=wall(),
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
    found = transaction.run(SWEEP.where(sweeps.c.name == name, sweeps.c.label == label).with_for_update()).one()
    transaction.run(
        sweeps.update()
        .where(sweeps.c.id == found.id)
        .values(spec=spec, size=size, keep=keep, code=code or found.code, launched_at=wall())
    )
    return sweep_of(transaction.run(SWEEP.where(sweeps.c.id == found.id)).one())


def register(database: Database, sweep_id: int, given: Sequence[Job]) -> Registered:
    """Chunk by chunk; while the database works on one, the next is put into words."""
    found: list[Registered] = []
    with ThreadPoolExecutor(1) as writer:
        pending: Future[Registered] | None = None
        for chunk in _chunks(given):
            rows = _rows(chunk)
            if pending is not None:
                found.append(pending.result())
            pending = writer.submit(_write, database, sweep_id, rows)
        if pending is not None:
            found.append(pending.result())
    return Registered(
        new=sum(one.new for one in found),
        shared=sum(one.shared for one in found),
        known=sum(one.known for one in found),
    )


def _write(database: Database, sweep_id: int, rows: list[tuple[Any, ...]]) -> Registered:
    return database.write(lambda t: _register(t, sweep_id, rows))


def _chunks(given: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Parts of at most CHUNK jobs; a child never shares one with its parent, which has to be there first."""
    start, seen = 0, set[str]()
    for index, job in enumerate(given):
        if index - start == CHUNK or (job.parent is not None and job.parent in seen):
            yield given[start:index]
            start, seen = index, set()
        seen.add(job.identity)
    if start < len(given):
        yield given[start:]


def _rows(given: Sequence[Job]) -> list[tuple[Any, ...]]:
    once = {job.identity: job for job in given}
    costs: dict[str, float] = {}
    rows = []
    for position, (identity, job) in enumerate(once.items()):
        key = job.cohort_key
        if key not in costs:  # Jobs of one cohort do the same work.
            costs[key] = job.cost
        precision = job.training.recipe.precision
        rows.append((position, identity, job.kind.value, costs[key], key, precision, job.to_json(), job.parent))
    return rows


def _register(transaction: Transaction, sweep_id: int, rows: list[tuple[Any, ...]]) -> Registered:
    # Held until the end of this chunk, so that no cancel of the sweep comes between.
    sweep = transaction.run(
        sa.select(sweeps.c.state, sweeps.c.keep).where(sweeps.c.id == sweep_id).with_for_update(read=True)
    ).one()
    wishes = {"wanted": sweep.state == SweepState.ACTIVE, "keep_model": sweep.keep != "none"}
    staged.create(transaction.connection, checkfirst=False)
    transaction.load(staged, LOADED, rows)
    if parents := {row[-1] for row in rows if row[-1] is not None}:
        _lock_parents(transaction, parents)
    new = _insert(transaction, sweep_id, wishes)
    joined = _join(transaction, sweep_id)
    if new < len(rows):
        _wish(transaction, wishes)
    staged.drop(transaction.connection, checkfirst=False)
    return Registered(new=new, shared=joined - new, known=len(rows) - joined)


def _lock_parents(transaction: Transaction, parents: set[str]) -> None:
    """Locks the parents' rows, so that none finishes unseen between here and the insert of its children."""
    named = jobs.c.identity.in_(sa.select(staged.c.parent).where(staged.c.parent.is_not(None)))
    found = transaction.run(
        sa.select(jobs.c.identity).where(named).order_by(jobs.c.id).with_for_update(key_share=True)
    ).scalars()
    if absent := parents - set(found):
        raise InputError(f"the parent job {min(absent)} is not registered")
    transaction.run(jobs.update().where(named).values(has_children=True))


def _insert(transaction: Transaction, sweep_id: int, wishes: dict[str, Any]) -> int:
    """The staged jobs that nobody registered before; returns how many."""
    parent = jobs.alias("parent")
    parent_id = sa.select(parent.c.id).where(parent.c.identity == staged.c.parent).scalar_subquery()
    done = sa.exists().where(parent.c.identity == staged.c.parent, parent.c.state == State.DONE.value)
    values: dict[str, Any] = {name: staged.c[name] for name in LOADED if name not in ("position", "parent")}
    values |= {name: sa.literal(value) for name, value in (FRESH | wishes | {"home": sweep_id}).items()}
    values |= {
        "registered_at": wall(),
        "parent_id": parent_id,
        "blocked": sa.and_(staged.c.parent.is_not(None), sa.not_(done)),
    }
    # WHERE true: without it SQLite takes ON CONFLICT for the condition of a join.
    rows = sa.select(*values.values()).where(staged.c.position >= 0).order_by(staged.c.position)
    return transaction.count(transaction.insert(jobs).from_select(list(values), rows).on_conflict_do_nothing())


def _join(transaction: Transaction, sweep_id: int) -> int:
    """Adds the memberships that are missing; returns how many."""
    # Looked up one by one: of a join with a table that it knows nothing of, Postgres would read all jobs.
    shared, job_id = (
        sa.select(value).where(jobs.c.identity == staged.c.identity).scalar_subquery()
        for value in (jobs.c.home != sweep_id, jobs.c.id)
    )
    rows = sa.select(sa.literal(sweep_id, sa.BigInteger), shared, job_id).where(staged.c.position >= 0)
    statement = transaction.insert(sweep_jobs).from_select(["sweep_id", "shared", "job_id"], rows)
    return transaction.count(statement.on_conflict_do_nothing())


def _wish(transaction: Transaction, wishes: dict[str, Any]) -> None:
    """Known jobs that this sweep holds too: what it wishes of them holds, whatever the others do."""
    known = jobs.c.identity.in_(sa.select(staged.c.identity))
    if wishes["keep_model"]:
        transaction.run(jobs.update().where(known, sa.not_(jobs.c.keep_model)).values(keep_model=True))
    if not wishes["wanted"]:
        return
    unwanted = sa.select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(known, sa.not_(jobs.c.wanted))
    found = transaction.run(unwanted.order_by(jobs.c.id).with_for_update(key_share=True)).all()
    if found:
        transaction.run(jobs.update().where(known, sa.not_(jobs.c.wanted)).values(wanted=True))
        cancelled = [row for row in found if row.state == State.CANCELLED]
        move(transaction, cancelled, State.CANCELLED, State.QUEUED, "wanted again", AWAKE)
