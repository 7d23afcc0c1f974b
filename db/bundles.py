"""Bundles: jobs that left for a machine which reaches no registry. Their holder stands among the agents, away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import failures
from qsweep.db.claims import CLAIMED, RENEW, START, whole
from qsweep.db.errors import LeaseLost
from qsweep.db.journal import batches, event, record
from qsweep.db.looking import NO_LEASE
from qsweep.db.moments import wall
from qsweep.db.rows import Claim
from qsweep.db.states import HOLDING, AgentState, FailureClass, State
from qsweep.db.tables import RUNNING, agents, attempts, jobs
from qsweep.db.transaction import Transaction

AWAY = agents.c.state == AgentState.AWAY.value
QUEUED = jobs.c.state == State.QUEUED.value


def pack(transaction: Transaction, holder: int, name: str, ids: Sequence[int]) -> list[Claim]:
    """The holder, still alive and under a lease, claims those of these jobs that wait: with a child only if its parent
    is done or comes along. Ids are handed out parents first, so in their order each parent is seen before its
    children."""
    if not transaction.quick(RENEW, {"agent": holder}):
        raise LeaseLost(holder)
    if before := _held(transaction, holder):  # the answer to our first try was lost
        return before
    packed: set[int] = set()
    for batch in batches(sorted(ids)):
        rows = list(_packable(transaction, batch, packed))
        packed.update(row.id for row in rows)
        _start(transaction, holder, rows, f"packed into bundle {holder}, {name}")
    return _held(transaction, holder)


def send_away(transaction: Transaction, holder: int, name: str, token: str) -> None:
    """The bundle is written: from now on no clock decides about its holder. Raises LeaseLost if one did already."""
    values = {"state": AgentState.AWAY.value, "lease": NO_LEASE, "note": name, "boot_id": token}
    mine = agents.c.id == holder
    left = agents.update().where(mine, agents.c.state == AgentState.ALIVE.value).values(**values)
    if transaction.run(left.returning(agents.c.id)).first() is not None:
        return
    if transaction.run(sa.select(agents.c.id).where(mine, AWAY, agents.c.boot_id == token)).first() is None:
        raise LeaseLost(holder)


def _packable(transaction: Transaction, ids: Sequence[int], packed: set[int]) -> Iterator[Any]:
    """The given jobs that may go, locked. Adds no more than it yields: the caller keeps `packed`."""
    rows = transaction.run(
        sa.select(jobs.c.id, jobs.c.attempt, jobs.c.parent_id, jobs.c.blocked)
        .where(jobs.c.id.in_(ids), QUEUED, jobs.c.wanted)
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    ).all()
    going = set(packed)
    for row in rows:
        if not row.blocked or row.parent_id in going:
            going.add(row.id)
            yield row


def _start(transaction: Transaction, holder: int, rows: Sequence[Any], detail: str) -> None:
    """One attempt of each of these locked jobs begins, under the holder. What it has trained stays behind."""
    if not rows:
        return
    values = {"state": State.RUNNING.value, "agent_id": holder, "attempt": jobs.c.attempt + 1, "not_before": None}
    ids = [row.id for row in rows]
    changed = transaction.run(
        jobs.update().where(jobs.c.id.in_(ids)).values(advanced=False, **values).returning(jobs.c.id, jobs.c.attempt)
    ).all()
    started = [
        {"job_id": row.id, "attempt": row.attempt, "agent_id": holder, "claim": 0, "resumed_from": 0} for row in changed
    ]
    transaction.quick(START, started)
    record(transaction, [event(row, State.QUEUED, State.RUNNING, detail, holder) for row in changed])


def _held(transaction: Transaction, holder: int) -> list[Claim]:
    ids = transaction.run(sa.select(jobs.c.id).where(RUNNING, jobs.c.agent_id == holder).order_by(jobs.c.id))
    return [
        claim
        for batch in batches(list(ids.scalars()))
        for claim in whole(transaction, transaction.run(sa.select(*CLAIMED).where(jobs.c.id.in_(batch))).all())
    ]


def recall(transaction: Transaction, holder: int) -> int:
    """What it holds, away or still being packed, is queued again, to be claimed at once; returns how many jobs."""
    count = sum(
        failures.depart(transaction, holder, AgentState.DEAD, FailureClass.PREEMPTED, "recalled", was=was)
        for was in HOLDING
    )
    mine = sa.select(attempts.c.job_id).where(attempts.c.agent_id == holder)
    transaction.run(
        jobs.update().where(jobs.c.id.in_(mine), QUEUED, jobs.c.not_before.is_not(None)).values(not_before=None)
    )
    return count


def land(transaction: Transaction, holder: int, *, host: str, device: str, build: str) -> None:
    """Notes where the bundle was computed; once nothing is held any more, it has retired."""
    mine = agents.c.id == holder
    transaction.run(agents.update().where(mine).values(host=host, device=device, build=build, beat_at=wall()))
    more = sa.exists().where(RUNNING, jobs.c.agent_id == holder)
    transaction.run(
        agents.update()
        .where(mine, AWAY, sa.not_(more))
        .values(state=AgentState.RETIRED.value, reason="imported", ended_at=wall())
    )
