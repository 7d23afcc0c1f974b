"""Claims: which jobs an agent may run, and the taking back of leases that ran out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from qsweep.db import failures
from qsweep.db.ancestry import upwards, with_ancestors
from qsweep.db.connection import Database
from qsweep.db.errors import LeaseLost
from qsweep.db.journal import RECORD, event
from qsweep.db.moments import boot, moment, wall
from qsweep.db.reading import calibration_of
from qsweep.db.rows import Calibration, Claim, Head, ParentModel, Remaining, Saved, Scope
from qsweep.db.states import AgentState, FailureClass, State
from qsweep.db.tables import (
    CLAIMABLE,
    RUNNING,
    agents,
    attempts,
    calibrations,
    checkpoints,
    jobs,
    selections,
    sweep_jobs,
)
from qsweep.db.transaction import Transaction
from qsweep.sweeps.faults import point
from qsweep.sweeps.job import Job

LONGEST_DELAY = 3600.0
"""A backoff that ends later than this was written before the boot clock began anew: it is over."""

ABOVE = sa.select(
    jobs.c.id, jobs.c.identity, jobs.c.kind, jobs.c.attempt, jobs.c.model_file, jobs.c.model_hash, jobs.c.diverged,
    jobs.c.parent_id,
)  # fmt: skip
"""What a claim tells of each job above it."""
NO_PARENTS: Mapping[int, ParentModel] = {}
QUEUED = jobs.c.state == State.QUEUED.value
OTHERS = agents.alias("others")
IS_EXPIRED = sa.or_(OTHERS.c.expires < moment(), OTHERS.c.clock != boot())
ANY_EXPIRED = sa.select(OTHERS.c.id, OTHERS.c.lease).where(sa.text("others.state = 'alive'"), IS_EXPIRED)
EXPIRED = ANY_EXPIRED.order_by(OTHERS.c.id).with_for_update(key_share=True, skip_locked=True)
RENEW = (
    agents.update()
    .where(agents.c.id == sa.bindparam("agent"), agents.c.state == AgentState.ALIVE.value)
    .values(expires=moment() + agents.c.lease, clock=boot(), beat_at=wall())
    .returning(agents.c.id, ANY_EXPIRED.exists().label("others_expired"))
)
RESTED = sa.or_(
    jobs.c.not_before.is_(None), jobs.c.not_before <= moment(), jobs.c.not_before > moment() + LONGEST_DELAY
)
ALIVE = sa.select(agents.c.id).where(agents.c.id == sa.bindparam("agent"), agents.c.state == AgentState.ALIVE.value)
# A subquery, not a join: the order has to come from the index of jobs.
FITTING = sa.exists().where(
    agents.c.id == sa.bindparam("agent"),
    agents.c.state == AgentState.ALIVE.value,
    agents.c.precisions.contains('"' + jobs.c.precision + '"'),
)
ORDER = (jobs.c.cost.desc(), jobs.c.cohort_key, jobs.c.progress.desc(), jobs.c.id)
HEAD = (
    sa.select(
        jobs.c.id,
        jobs.c.cost,
        jobs.c.cohort_key,
        jobs.c.progress,
        jobs.c.alone,
        jobs.c.slots_limit,
        jobs.c.content,
    )
    .where(CLAIMABLE, RESTED, FITTING)
    .order_by(*ORDER)
    .limit(1)
)
SHARED = sa.and_(
    sweep_jobs.c.job_id == jobs.c.id,
    sweep_jobs.c.sweep_id == sa.bindparam("sweep"),
    sweep_jobs.c.shared == sa.true(),
)
# Two questions, so that each has its index: a sweep's own jobs, and those that another registered first.
HEAD_AT_HOME = HEAD.where(jobs.c.home == sa.bindparam("sweep"))
HEAD_OF_SHARED = HEAD.join(sweep_jobs, SHARED)
OF_SWEEP = sa.or_(jobs.c.home == sa.bindparam("sweep"), sa.exists().where(SHARED))
# Looked up job by job in the order of the claims, so that nothing has to be sorted.
OF_SELECTION = sa.exists().where(
    selections.c.selection == sa.bindparam("selection", type_=sa.BigInteger), selections.c.job_id == jobs.c.id
)
INSIDE: dict[str, tuple[sa.ColumnElement[bool], ...]] = {
    "all": (),
    "sweep": (OF_SWEEP,),
    "selection": (OF_SELECTION,),
}
"""What a query of jobs adds for each kind of scope."""
HEADS = {"all": (HEAD,), "sweep": (HEAD_AT_HOME, HEAD_OF_SHARED), "selection": (HEAD.where(OF_SELECTION),)}


STARTED: dict[str, Any] = {
    "state": State.RUNNING.value,
    "agent_id": sa.bindparam("agent"),
    "attempt": jobs.c.attempt + 1,
    "advanced": False,
    "not_before": None,
}
CLAIMED = (
    jobs.c.id,
    jobs.c.attempt,
    jobs.c.content,
    jobs.c.progress,
    jobs.c.alone,
    jobs.c.slots_limit,
    sa.or_(jobs.c.keep_model, jobs.c.has_children).label("keep_model"),
    jobs.c.parent_id,
    sa.case((jobs.c.progress > 0, "claimed, from step " + sa.cast(jobs.c.progress, sa.Text)), else_="claimed").label(
        "detail"
    ),
)


def claim_statement(*more: sa.ColumnElement[bool]) -> sa.UpdateBase:
    picked = (
        sa.select(jobs.c.id)
        .where(
            CLAIMABLE,
            RESTED,
            jobs.c.cohort_key == sa.bindparam("key"),
            jobs.c.alone == sa.bindparam("runs_alone"),
            jobs.c.slots_limit.is_not_distinct_from(sa.bindparam("most_slots", type_=sa.Integer)),
            *more,
        )
        .order_by(jobs.c.progress.desc(), jobs.c.id)
        .limit(sa.bindparam("most"))
        # On Postgres this also keeps the expression from being evaluated more than once.
        .with_for_update(key_share=True, skip_locked=True, of=jobs)
        .cte("picked")
    )
    return jobs.update().where(jobs.c.id.in_(sa.select(picked.c.id))).values(STARTED).returning(*CLAIMED)


CLAIM = {kind: claim_statement(*inside) for kind, inside in INSIDE.items()}
START = (
    attempts.insert()
    .inline()
    .values(
        job_id=sa.bindparam("job_id"),
        attempt=sa.bindparam("attempt"),
        agent_id=sa.bindparam("agent_id"),
        claim=sa.bindparam("claim"),
        resumed_from=sa.bindparam("resumed_from"),
        started_at=wall(),
        error="",
    )
)


def next_cohort(database: Database, agent_id: int, scope: Scope, parents: Sequence[int] = ()) -> Head | None:
    if parents and (child := database.read(lambda t: _child(t, agent_id, scope, parents))):
        return child
    look = database.read if scope.kind == "sweep" else database.glance
    head = look(lambda t: _head(t, agent_id, scope))
    if head is None and database.glance(lambda t: t.quick(ANY_EXPIRED, {})):
        database.write(take_back_expired)
        head = look(lambda t: _head(t, agent_id, scope))
    return head


def _head(transaction: Transaction, agent_id: int, scope: Scope) -> Head | None:
    values = {"agent": agent_id, "sweep": scope.sweep, "selection": scope.selection}
    found = [row for head in HEADS[scope.kind] for row in transaction.quick(head, values)]
    if not found:
        if not transaction.quick(ALIVE, {"agent": agent_id}):
            raise LeaseLost(agent_id)
        return None
    return _head_of(min(found, key=lambda row: (-row.cost, row.cohort_key, -row.progress, row.id)))


def _child(transaction: Transaction, agent_id: int, scope: Scope, parents: Sequence[int]) -> Head | None:
    """The first claimable child of these jobs, whose files the agent still has in memory."""
    heads = HEAD.where(jobs.c.parent_id.in_(list(parents)), *INSIDE[scope.kind])
    values = {"agent": agent_id, "sweep": scope.sweep, "selection": scope.selection}
    row = transaction.run(heads, values).first()
    return None if row is None else _head_of(row)


def _head_of(row: Any) -> Head:
    return Head(
        job_id=row.id,
        cohort_key=row.cohort_key,
        job=Job.from_json(row.content),
        alone=bool(row.alone),
        slots_limit=row.slots_limit,
    )


def take_back_expired(transaction: Transaction) -> int:
    expired = transaction.quick(EXPIRED, {})
    for row in expired:
        failures.bury(transaction, row.id, FailureClass.LOST, f"no heartbeat for a lease of {row.lease:g} s")
    return len(expired)


def claim(
    transaction: Transaction,
    agent_id: int,
    head: Head,
    limit: int,
    number: int,
    scope: Scope,
    *,
    again: bool = False,
) -> list[Claim]:
    """`number` names this claim: `again`, it may have been committed without our hearing of it."""
    # The lock on the agent's row keeps it from being marked dead before its new jobs can be seen.
    renewed = transaction.quick(RENEW, {"agent": agent_id})
    if not renewed:
        raise LeaseLost(agent_id)
    if (again or transaction.again) and (claimed := claimed_before(transaction, agent_id, number)):
        return whole(transaction, claimed)
    if renewed[0].others_expired:
        take_back_expired(transaction)
    rows = transaction.quick(CLAIM[scope.kind], wanted(agent_id, head, limit, scope))
    return start(transaction, agent_id, rows, number) if rows else []


def wanted(agent_id: int, head: Head, limit: int, scope: Scope) -> dict[str, Any]:
    """What the statement of a claim is to be told."""
    return {
        "agent": agent_id,
        "key": head.cohort_key,
        "runs_alone": head.alone,
        "most_slots": head.slots_limit,
        "sweep": scope.sweep,
        "selection": scope.selection,
        "most": 1 if head.alone else min(limit, head.slots_limit or limit),
    }


def start(transaction: Transaction, agent_id: int, rows: Sequence[Any], number: int) -> list[Claim]:
    """Writes down the new attempts of jobs that have just become this agent's."""
    started = [
        {"job_id": row.id, "attempt": row.attempt, "agent_id": agent_id, "claim": number, "resumed_from": row.progress}
        for row in rows
    ]
    claimed = [event(row, State.QUEUED, State.RUNNING, row.detail, agent_id) for row in rows]
    transaction.quick(START, started)
    transaction.quick(RECORD, claimed)
    point("claim.uncommitted", len(rows))
    return whole(transaction, rows)


def claimed_before(transaction: Transaction, agent_id: int, number: int) -> list[Any]:
    mine = sa.and_(attempts.c.job_id == jobs.c.id, attempts.c.attempt == jobs.c.attempt, attempts.c.claim == number)
    statement = sa.select(*CLAIMED).where(RUNNING, jobs.c.agent_id == agent_id, mine)
    return list(transaction.run(statement).all())


def whole(transaction: Transaction, rows: Any) -> list[Claim]:
    """The claims that these rows of jobs stand for, with their checkpoints and parents."""
    parents = _parents(transaction, {row.parent_id for row in rows if row.parent_id is not None})
    return claims_of(rows, saved(transaction, [row.id for row in rows if row.progress]), parents)


def claims_of(
    rows: Sequence[Any], checkpoints: Mapping[int, Sequence[Saved]], parents: Mapping[int, ParentModel] = NO_PARENTS
) -> list[Claim]:
    return [
        Claim(
            job_id=row.id,
            job=Job.from_json(row.content),
            attempt=row.attempt,
            checkpoints=tuple(checkpoints.get(row.id, ())),
            alone=bool(row.alone),
            slots_limit=row.slots_limit,
            keep_model=bool(row.keep_model),
            parent=parents.get(row.parent_id),
        )
        for row in sorted(rows, key=lambda row: (-row.progress, row.id))
    ]


def saved(transaction: Transaction, ids: Sequence[int]) -> dict[int, list[Saved]]:
    """The recorded checkpoints of these jobs, the newest first."""
    found: dict[int, list[Saved]] = {}
    if ids:
        statement = sa.select(checkpoints).where(checkpoints.c.job_id.in_(ids)).order_by(checkpoints.c.id.desc())
        for row in transaction.run(statement):
            one = Saved(step=row.step, epoch=row.epoch, file=row.file, checksum=row.checksum)
            found.setdefault(row.job_id, []).append(one)
    return found


def _parents(transaction: Transaction, ids: set[int]) -> dict[int, ParentModel]:
    """These parents with what they left, and the chains above them; each child remembers which attempt it took."""
    if not ids:
        return {}
    known = with_ancestors(transaction, ids, ABOVE)
    for parent in sorted(ids):
        mine = sa.and_(jobs.c.parent_id == parent, jobs.c.state == State.RUNNING.value)
        transaction.run(jobs.update().where(mine).values(parent_attempt=known[parent].attempt))
    return {parent: _chain(upwards(known, parent)) for parent in ids}


def _chain(rows: Iterable[Any]) -> ParentModel:
    found: ParentModel | None = None
    for row in reversed(list(rows)):
        found = ParentModel(
            identity=row.identity,
            attempt=row.attempt,
            model_file=row.model_file,
            model_hash=row.model_hash,
            diverged=bool(row.diverged),
            kind=row.kind,
            parent=found,
        )
    assert found is not None, "a chain has at least one job"
    return found


def remaining(transaction: Transaction, scope: Scope) -> Remaining:
    wanted = sa.and_(jobs.c.wanted, *INSIDE[scope.kind])
    values = {"sweep": scope.sweep, "selection": scope.selection}
    queued = transaction.run(sa.select(jobs.c.id).where(QUEUED, wanted).limit(1), values).first()
    here = jobs.c.agent_id.not_in(sa.select(agents.c.id).where(agents.c.state == AgentState.AWAY.value))
    running = transaction.run(sa.select(jobs.c.id).where(RUNNING, wanted, here).limit(1), values).first()
    soonest = sa.select(sa.func.min(jobs.c.not_before) - moment()).where(
        CLAIMABLE, wanted, jobs.c.not_before.is_not(None), sa.not_(RESTED)
    )
    delay = transaction.run(soonest, values).scalar() if queued else None
    return Remaining(
        queued=queued is not None,
        running=running is not None,
        delay=None if delay is None else max(float(delay), 0.0),
    )


def calibration(transaction: Transaction, shape: str, device: str, build: str, proposed: Calibration) -> Calibration:
    key = {"shape": shape, "device": device, "build": build}
    statement = transaction.insert(calibrations).values(**key, slots=proposed.slots, form=proposed.form, made_at=wall())
    transaction.run(statement.on_conflict_do_nothing())
    row = transaction.run(sa.select(calibrations).filter_by(**key)).one()
    return calibration_of(row)


def recalibrate(transaction: Transaction, shape: str, device: str, build: str, found: Calibration) -> Calibration:
    key = {"shape": shape, "device": device, "build": build}
    transaction.run(sa.delete(calibrations).filter_by(**key))
    transaction.run(sa.insert(calibrations).values(**key, **asdict(found), made_at=wall()))
    return found
