"""Claims: which jobs an agent may run, and the taking back of leases that ran out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import failures, room
from qsweep.db.ancestry import upwards, with_ancestors
from qsweep.db.connection import Database
from qsweep.db.errors import LeaseLost
from qsweep.db.moments import boot, has_expired, moment, wall
from qsweep.db.moves import move
from qsweep.db.rows import Claim, Head, ParentModel, Remaining, Saved, Scope
from qsweep.db.rules import most_together, place_in_queue, share
from qsweep.db.states import AgentState, FailureClass, State
from qsweep.db.tables import CLAIMABLE, RUNNING, agents, attempts, checkpoints, jobs, selections, sweep_jobs
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
QUEUED = jobs.c.state == State.QUEUED.value
OTHERS = agents.alias("others")
IS_EXPIRED = has_expired(OTHERS.c.expires, OTHERS.c.clock)
ANY_EXPIRED = sa.select(OTHERS.c.id, OTHERS.c.lease).where(sa.text("others.state = 'alive'"), IS_EXPIRED)
OTHER_EXPIRED = ANY_EXPIRED.where(OTHERS.c.id != sa.bindparam("agent"))
EXPIRED = OTHER_EXPIRED.order_by(OTHERS.c.id).with_for_update(key_share=True, skip_locked=True)
NOBODY = 0
"""No agent has this number."""
RENEW = (
    agents.update()
    .where(agents.c.id == sa.bindparam("agent"), agents.c.state == AgentState.ALIVE.value)
    .values(expires=moment() + agents.c.lease, clock=boot(), beat_at=wall())
    .returning(agents.c.id, OTHER_EXPIRED.exists().label("others_expired"))
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
ORDER_IN_COHORT = (jobs.c.progress.desc(), jobs.c.id)
ORDER = (jobs.c.cost.desc(), jobs.c.cohort_key, *ORDER_IN_COHORT)
"""The order of the claims; `db.rules.place_in_queue` is the same in Python."""
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


CLAIMED = (
    jobs.c.id,
    jobs.c.state,
    jobs.c.attempt,
    jobs.c.content,
    jobs.c.progress,
    jobs.c.alone,
    jobs.c.slots_limit,
    sa.or_(jobs.c.keep_model, jobs.c.has_children).label("keep_model"),
    jobs.c.parent_id,
)
"""What a claim needs of a job."""
NOT_AWAY = jobs.c.agent_id.not_in(sa.select(agents.c.id).where(agents.c.state == AgentState.AWAY.value))
"""No bundle holds it."""
FREE = {
    kind: sa.select(*CLAIMED)
    .where(
        CLAIMABLE,
        RESTED,
        jobs.c.cohort_key == sa.bindparam("key"),
        jobs.c.alone == sa.bindparam("runs_alone"),
        jobs.c.slots_limit.is_not_distinct_from(sa.bindparam("most_slots", type_=sa.Integer)),
        *inside,
    )
    .order_by(*ORDER_IN_COHORT)
    .limit(sa.bindparam("most"))
    .with_for_update(key_share=True, skip_locked=True, of=jobs)
    for kind, inside in INSIDE.items()
}
"""The claimable jobs of a cohort, locked."""
CLAIMABLE_NOW = {
    kind: sa.select(sa.func.count()).select_from(
        sa.select(jobs.c.id).where(CLAIMABLE, RESTED, *inside).limit(sa.bindparam("most")).subquery()
    )
    for kind, inside in INSIDE.items()
}
"""How many jobs are claimable, counted up to `most`."""
HELD = sa.select(*CLAIMED).where(RUNNING, jobs.c.agent_id == sa.bindparam("agent")).order_by(*ORDER_IN_COHORT)
HELD_BY_ID = HELD.where(jobs.c.id.in_(sa.bindparam("ids", expanding=True, type_=sa.BigInteger)))
HELD_BY_CLAIM = HELD.where(
    sa.exists().where(
        attempts.c.job_id == jobs.c.id,
        attempts.c.attempt == jobs.c.attempt,
        attempts.c.claim == sa.bindparam("claim", type_=sa.BigInteger),
    )
)
START = attempts.insert().inline().values(started_at=wall(), error="")


def _from_where(row: Any) -> str:
    return f"claimed, from step {row.progress}" if row.progress else "claimed"


def next_cohort(database: Database, agent_id: int, scope: Scope, parents: Sequence[int] = ()) -> Head | None:
    head = _next_cohort(database, agent_id, scope, parents)
    if head is None or not (head.alone or head.slots_limit):
        return head
    key = head.cohort_key
    if not database.read(lambda t: room.is_limited_elsewhere(t, agent_id, key)):
        return head
    database.write(lambda t: room.forget_limits(t, agent_id, key))
    return _next_cohort(database, agent_id, scope, parents)


def _next_cohort(database: Database, agent_id: int, scope: Scope, parents: Sequence[int]) -> Head | None:
    if parents and (child := database.read(lambda t: _child(t, agent_id, scope, parents))):
        return child
    head = database.read(lambda t: _head(t, agent_id, scope))
    if head is None and database.read(lambda t: t.run(ANY_EXPIRED).first()):
        database.write(take_back_expired)
        head = database.read(lambda t: _head(t, agent_id, scope))
    return head


def _head(transaction: Transaction, agent_id: int, scope: Scope) -> Head | None:
    values = {"agent": agent_id, "sweep": scope.sweep, "selection": scope.selection}
    found = [row for head in HEADS[scope.kind] for row in transaction.run(head, values)]
    if not found:
        if transaction.run(ALIVE, {"agent": agent_id}).first() is None:
            raise LeaseLost(agent_id)
        return None
    return _head_of(min(found, key=lambda row: place_in_queue(row.cost, row.cohort_key, row.progress, row.id)))


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


def take_back_expired(transaction: Transaction, claiming: int = NOBODY) -> int:
    """Takes back expired leases; returns how many. Not that of the agent that claims in this transaction: who stood
    still in it for longer than its lease would be dead, and then get jobs that nobody takes back."""
    expired = transaction.run(EXPIRED, {"agent": claiming}).all()
    for row in expired:
        failures.mark_dead(transaction, row.id, FailureClass.LOST, f"no heartbeat for a lease of {row.lease:g} s")
    return len(expired)


def renew(transaction: Transaction, agent_id: int) -> bool:
    """Renews the agent's lease; whether leases of others have run out. Raises LeaseLost.

    The lock on the agent's row keeps it from being marked dead before its new jobs can be seen.
    """
    renewed = transaction.run(RENEW, {"agent": agent_id}).first()
    if renewed is None:
        raise LeaseLost(agent_id)
    return bool(renewed.others_expired)


def claim(database: Database, agent_id: int, head: Head, limit: int, scope: Scope, sharers: int = 1) -> list[Claim]:
    number = random.getrandbits(62)  # by which a repetition, if the answer is lost, finds its own claim
    return database.write(lambda t: _claim(t, agent_id, head, limit, number, scope, sharers))


def _claim(
    transaction: Transaction, agent_id: int, head: Head, limit: int, number: int, scope: Scope, sharers: int
) -> list[Claim]:
    others_expired = renew(transaction, agent_id)
    if transaction.again and (claimed := claimed_before(transaction, agent_id, number)):
        return claimed
    if others_expired:
        take_back_expired(transaction, agent_id)
    if sharers > 1:
        within = {"sweep": scope.sweep, "selection": scope.selection, "most": limit * sharers}
        limit = share(limit, int(transaction.run(CLAIMABLE_NOW[scope.kind], within).scalar_one()), sharers)
    wanted = {
        "key": head.cohort_key,
        "runs_alone": head.alone,
        "most_slots": head.slots_limit,
        "sweep": scope.sweep,
        "selection": scope.selection,
        "most": most_together(limit, alone=head.alone, slots_limit=head.slots_limit),
    }
    return start(transaction, agent_id, transaction.run(FREE[scope.kind], wanted).all(), number)


def start(
    transaction: Transaction,
    agent_id: int,
    rows: Sequence[Any],
    number: int,
    detail: str | Callable[[Any], str] = _from_where,
    **values: Any,
) -> list[Claim]:
    """Gives these locked, queued jobs (rows of CLAIMED) to the agent: every claim comes through here.

    `values`: what else becomes of their columns.
    """
    if not rows:
        return []
    own = {"agent_id": agent_id, "advanced": False, "not_before": None, **values}
    move(transaction, rows, State.RUNNING, detail, values=own, agent_id=agent_id)
    started = [
        {
            "job_id": row.id,
            "attempt": row.attempt + 1,
            "agent_id": agent_id,
            "claim": number,
            "resumed_from": row.progress,
        }
        for row in rows
    ]
    transaction.run(START, started)
    point("claim.uncommitted", len(rows))
    return _claims(transaction, [{**row._mapping, **values, "attempt": row.attempt + 1} for row in rows])


def claimed_before(transaction: Transaction, agent_id: int, number: int) -> list[Claim]:
    """What the agent holds by the claim of this number."""
    return held_claims(transaction, agent_id, HELD_BY_CLAIM, claim=number)


def held_claims(transaction: Transaction, agent_id: int, which: sa.Select[Any] = HELD, **values: Any) -> list[Claim]:
    """The agent's running jobs, further progress first, with their checkpoints and parents. `which`: HELD_BY_ID or
    HELD_BY_CLAIM, with its values."""
    return _claims(transaction, transaction.run(which, {"agent": agent_id, **values}).mappings().all())


def _claims(transaction: Transaction, rows: Sequence[Any]) -> list[Claim]:
    """The claims of these running jobs (rows of CLAIMED), with their checkpoints and parents."""
    parents = _parents(transaction, {row["parent_id"] for row in rows if row["parent_id"] is not None})
    checkpoints = saved(transaction, [row["id"] for row in rows if row["progress"]])
    return [
        Claim(
            job_id=row["id"],
            job=Job.from_json(row["content"]),
            attempt=row["attempt"],
            checkpoints=tuple(checkpoints.get(row["id"], ())),
            alone=bool(row["alone"]),
            slots_limit=row["slots_limit"],
            keep_model=bool(row["keep_model"]),
            parent=parents.get(row["parent_id"]),
        )
        for row in rows
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
    running = transaction.run(sa.select(jobs.c.id).where(RUNNING, wanted, NOT_AWAY).limit(1), values).first()
    soonest = sa.select(sa.func.min(jobs.c.not_before) - moment()).where(
        CLAIMABLE, wanted, jobs.c.not_before.is_not(None), sa.not_(RESTED)
    )
    delay = transaction.run(soonest, values).scalar() if queued else None
    return Remaining(
        queued=queued is not None,
        running=running is not None,
        delay=None if delay is None else max(float(delay), 0.0),
    )
