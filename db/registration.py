"""How sweeps and their jobs come into the registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import sqlalchemy as sa

from qsweep.db.connection import Database
from qsweep.db.control import LOST_MODEL, invalidate
from qsweep.db.deletion import NOWHERE
from qsweep.db.looking import sweep_row
from qsweep.db.moments import wall
from qsweep.db.moves import move
from qsweep.db.rows import Registered, Sweep
from qsweep.db.states import State, SweepState
from qsweep.db.tables import jobs, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import KINDS
from qsweep.sweeps.spec import Spec, variant

CHUNK = 5_000
"""Jobs per transaction: others wait for it a few tenths of a second at most."""

FRESH: dict[str, Any] = {
    "state": State.QUEUED.value, "progress": 0, "epoch": 0, "alone": False, "crashes": 0, "losses": 0,
    "advanced": False, "attempt": 0, "has_children": False, "diverged": False,
}  # fmt: skip
WORDS = ("identity", "kind", "cost", "cohort_key", "precision", "content")
"""The columns that a job itself fills."""
COLUMNS = ("id", *WORDS, "parent_id", "blocked")
Row: TypeAlias = tuple[tuple[Any, ...], str | None]
"""What a job fills, in the order of WORDS, and the identity of its parent."""
AWAKE: dict[str, Any] = {"not_before": None}


KEEPS = ("none", "children", "all")
"""Which models stay, the fewest first."""


def add_sweep(
    transaction: Transaction,
    *,
    name: str,
    label: str,
    spec: str,
    size: int,
    owner: str,
    code: str,
    keep: str,
    written: bool,
    seen_code: str,
) -> Sweep:
    transaction.run(
        transaction.insert(sweeps)
        .values(
            name=name, label=label, spec=spec, size=size, owner=owner, code=code, keep=keep, reason="",
            state=SweepState.ACTIVE.value, watched_from=0, created_at=wall(), launched_at=wall(),
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
    sought = sa.select(sweeps).where(sweeps.c.name == name, sweeps.c.label == label)
    found = transaction.run(sought.with_for_update()).one()
    _check_same(found, spec)
    _check_code(found, code, seen_code)
    transaction.run(
        sweeps.update()
        .where(sweeps.c.id == found.id)
        .values(
            spec=spec,
            size=size,
            keep=max(keep, found.keep, key=KEEPS.index),
            code=code or found.code,
            launched_at=wall(),
            **({"written_at": wall()} if written else {}),
        )
    )
    return sweep_row(dict(transaction.run(sought).one()._mapping))


def _check_same(found: Any, spec: str) -> None:
    """The words of a sweep may change with a launch: its title, its tables. What it spans, and how, may not."""
    if found.spec == spec:
        return
    title = f"{found.name}@{found.label}"
    before, now = Spec.from_json(found.spec, place=title), Spec.from_json(spec, place=title)
    if (before.tuning, variant(before.jobs())) != (now.tuning, variant(now.jobs())):
        raise InputError(f"{title} names another variant already", place="--name", allowed="choose another name")


def _check_code(found: Any, code: str, seen: str) -> None:
    """Nobody replaces code that somebody else chose since he looked."""
    if found.code and code and found.code not in (code, seen):
        raise InputError(
            f"another launch has just begun it with other code ({found.code})",
            place=f"{found.name}@{found.label}",
            allowed="launch again: it asks which code to go on with, or takes --code",
        )


def register(
    database: Database, sweep_id: int, given: Sequence[Job], told: Callable[[int], None] | None = None
) -> Registered:
    """Chunk by chunk; while the database works on one, the next is put into words. `told` hears after each chunk but
    the last how many of the jobs are in."""
    found: list[Registered] = []
    with ThreadPoolExecutor(1) as writer:
        pending: Future[Registered] | None = None
        for chunk in _chunks(given):
            rows = _rows(chunk)
            if pending is not None:
                found.append(pending.result())
                if told is not None:
                    told(sum(one.new + one.shared + one.known for one in found))
            pending = writer.submit(_write, database, sweep_id, rows)
        if pending is not None:
            found.append(pending.result())
    return Registered(
        new=sum(one.new for one in found),
        shared=sum(one.shared for one in found),
        known=sum(one.known for one in found),
    )


def _write(database: Database, sweep_id: int, rows: list[Row]) -> Registered:
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


def _rows(given: Sequence[Job]) -> list[Row]:
    once = {job.identity: job for job in given}
    costs: dict[str, float] = {}
    rows = []
    for identity, job in once.items():
        key = job.cohort_key
        if key not in costs:  # Jobs of one cohort do the same work.
            costs[key] = job.cost
        precision = job.precision
        rows.append(((identity, job.kind.name, costs[key], key, precision, job.to_json()), job.parent))
    return rows


def _register(transaction: Transaction, sweep_id: int, rows: list[Row]) -> Registered:
    # Held until the end of this chunk, so that nobody else registers one of its jobs, or cancels the sweep.
    transaction.lock_registration()
    sweep = transaction.run(
        sa.select(sweeps.c.state, sweeps.c.keep, sweeps.c.spec)
        .where(sweeps.c.id == sweep_id)
        .with_for_update(read=True)
    ).one()
    if sweep.state == SweepState.DELETED:
        raise InputError("the sweep was deleted while it was launched", allowed="launch it again")
    wishes = {"wanted": sweep.state == SweepState.ACTIVE, "keep_model": _keeps_models(sweep.keep, sweep.spec)}
    parents = _lock_parents(transaction, {parent for _, parent in rows if parent is not None})
    known = _known(transaction, [words[0] for words, _ in rows])
    fresh = [row for row in rows if row[0][0] not in known]
    _insert(transaction, sweep_id, fresh, parents, wishes)
    revived = _take_home(transaction, sweep_id, list(known.values()))
    joined = _join(transaction, sweep_id, list(known.values()))
    if known:
        _wish(transaction, list(known.values()), wishes)
    return Registered(new=len(fresh) + revived, shared=joined - revived, known=len(known) - joined)


def _keeps_models(keep: str, spec: str) -> bool:
    """Whether a sweep asks for the models of its trainings: every one of them has the children that it declares."""
    content = json.loads(spec)
    return keep == "all" or (keep == "children" and bool(content.get("measures") or content.get("zero_shot")))


def _take_home(transaction: Transaction, sweep_id: int, known: Sequence[int]) -> int:
    """Jobs whose sweep was deleted are this one's, as if it had registered them first; returns how many."""
    if not known:
        return 0
    return transaction.count(jobs.update().where(jobs.c.id.in_(known), jobs.c.home == NOWHERE).values(home=sweep_id))


def _lock_parents(transaction: Transaction, parents: set[str]) -> dict[str, Any]:
    """The parents' rows, locked, so that none finishes unseen between here and the insert of its children."""
    if not parents:
        return {}
    named = transaction.among(jobs.c.identity, sorted(parents))
    leaves_file = jobs.c.kind.in_([one.name for one in KINDS.values() if one.leaves is not None])
    unkept = sa.and_(leaves_file, jobs.c.model_file.is_(None), sa.not_(jobs.c.has_children), sa.not_(jobs.c.diverged))
    lacking = unkept.label("lacking")
    statement = sa.select(jobs.c.id, jobs.c.identity, jobs.c.state, lacking).where(named).order_by(jobs.c.id)
    rows = transaction.run(statement.with_for_update(key_share=True)).all()
    if lost := [row.id for row in rows if row.state == State.DONE and row.lacking]:
        # Done without its file a moment ago, when nobody had asked for it: the launch looked before that.
        invalidate(transaction, lost, LOST_MODEL)
        rows = transaction.run(statement).all()
    found = {row.identity: row for row in rows}
    if absent := parents - found.keys():
        raise InputError(f"the parent job {min(absent)} is not registered")
    transaction.run(jobs.update().where(named, sa.not_(jobs.c.has_children)).values(has_children=True))
    return found


def _known(transaction: Transaction, identities: Sequence[str]) -> dict[str, int]:
    """The ids of those jobs that are registered."""
    found = transaction.run(sa.select(jobs.c.identity, jobs.c.id).where(transaction.among(jobs.c.identity, identities)))
    return {row.identity: row.id for row in found}


def _insert(
    transaction: Transaction, sweep_id: int, fresh: Sequence[Row], parents: dict[str, Any], wishes: dict[str, Any]
) -> None:
    """Jobs that nobody registered before, and their membership of this sweep."""
    if not fresh:
        return
    ids = transaction.new_ids(jobs, len(fresh))
    now = transaction.run(sa.select(wall())).scalar_one()
    values = []
    for number, (words, parent) in zip(ids, fresh, strict=True):
        above = None if parent is None else parents[parent]
        place = (None, False) if above is None else (above.id, above.state != State.DONE)
        values.append((number, *words, *place))
    transaction.load(jobs, COLUMNS, values, FRESH | wishes | {"home": sweep_id, "registered_at": now})
    members = [(number,) for number in ids]
    transaction.load(sweep_jobs, ("job_id",), members, {"sweep_id": sweep_id, "shared": False})


def _join(transaction: Transaction, sweep_id: int, known: Sequence[int]) -> int:
    """Adds the memberships that known jobs lack; returns how many."""
    if not known:
        return 0
    rows = sa.select(sa.literal(sweep_id, sa.BigInteger), jobs.c.home != sweep_id, jobs.c.id).where(
        jobs.c.id.in_(known)
    )
    statement = transaction.insert(sweep_jobs).from_select(["sweep_id", "shared", "job_id"], rows)
    return transaction.count(statement.on_conflict_do_nothing())


def _wish(transaction: Transaction, ids: Sequence[int], wishes: dict[str, Any]) -> None:
    """Known jobs that this sweep holds too: what it wishes of them holds, whatever the others do."""
    known = jobs.c.id.in_(ids)
    if wishes["keep_model"]:
        transaction.run(jobs.update().where(known, sa.not_(jobs.c.keep_model)).values(keep_model=True))
    if not wishes["wanted"]:
        return
    unwanted = sa.select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(known, sa.not_(jobs.c.wanted))
    found = transaction.run(unwanted.order_by(jobs.c.id).with_for_update(key_share=True)).all()
    if found:
        transaction.run(jobs.update().where(known, sa.not_(jobs.c.wanted)).values(wanted=True))
        cancelled = [row for row in found if row.state == State.CANCELLED]
        move(transaction, cancelled, State.QUEUED, "wanted again", values=AWAKE)
