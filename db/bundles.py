"""Bundles: jobs that left for a machine which reaches no registry. Their holder stands among the agents, away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import failures
from qsweep.db.claims import CLAIMED, HELD_BY_ID, held_claims, renew, start
from qsweep.db.errors import LeaseLost
from qsweep.db.looking import NO_LEASE
from qsweep.db.moments import wall
from qsweep.db.moves import batches
from qsweep.db.parts import Part, writes
from qsweep.db.rows import Claim
from qsweep.db.states import HOLDING, AgentState, FailureClass, State
from qsweep.db.tables import RUNNING, agents, attempts, jobs
from qsweep.db.transaction import Transaction

AWAY = agents.c.state == AgentState.AWAY.value
QUEUED = jobs.c.state == State.QUEUED.value


class Bundles(Part):
    """Bundles: jobs that leave for a machine which reaches no registry, and their results, which come back.

    Ownership: what is packed is held by an agent of its own, alive under a lease while the bundle is written and away
    from then on: no clock takes its jobs back, only an import or a recall moves them.
    Consistency: a child goes only if its parent is done or goes too.
    Exceptions: LeaseLost.
    """

    @writes
    def pack(self, transaction: Transaction, holder: int, name: str, ids: Sequence[int]) -> list[Claim]:
        """Claims for the bundle `name` those of these jobs that wait; what its holder holds now.

        The holder is an agent, enlisted with a lease as any other, until `send_away`. A child goes only if its parent
        is done or goes too. Raises LeaseLost.
        """
        renew(transaction, holder)
        if before := _held(transaction, holder):  # the answer to our first try was lost
            return before
        packed: set[int] = set()
        for batch in batches(sorted(ids)):
            rows = list(_packable(transaction, batch, packed))
            packed.update(row.id for row in rows)
            start(transaction, holder, rows, 0, f"packed into bundle {holder}, {name}")
        return _held(transaction, holder)

    @writes
    def send_away(self, transaction: Transaction, holder: int, name: str, token: str) -> None:
        """The bundle lies whole where it belongs: from now on only an import or a recall moves its jobs. Raises
        LeaseLost if they were taken back before.
        """
        values = {"state": AgentState.AWAY.value, "lease": NO_LEASE, "note": name, "boot_id": token}
        mine = agents.c.id == holder
        left = agents.update().where(mine, agents.c.state == AgentState.ALIVE.value).values(**values)
        if transaction.run(left.returning(agents.c.id)).first() is not None:
            return
        if transaction.run(sa.select(agents.c.id).where(mine, AWAY, agents.c.boot_id == token)).first() is None:
            raise LeaseLost(holder)

    @writes
    def recall(self, transaction: Transaction, holder: int) -> int:
        """Takes back what a bundle holds; returns how many jobs. Its results no longer pass the fence."""
        count = sum(
            failures.end_agent(transaction, holder, AgentState.DEAD, FailureClass.PREEMPTED, "recalled", was=was)
            for was in HOLDING
        )
        mine = sa.select(attempts.c.job_id).where(attempts.c.agent_id == holder)
        transaction.run(
            jobs.update().where(jobs.c.id.in_(mine), QUEUED, jobs.c.not_before.is_not(None)).values(not_before=None)
        )
        return count

    @writes
    def record_where_it_ran(self, transaction: Transaction, holder: int, *, host: str, device: str, build: str) -> None:
        """Notes where a bundle was computed. When nothing of it is out any more, its holder retires."""
        mine = agents.c.id == holder
        transaction.run(agents.update().where(mine).values(host=host, device=device, build=build, beat_at=wall()))
        more = sa.exists().where(RUNNING, jobs.c.agent_id == holder)
        transaction.run(
            agents.update()
            .where(mine, AWAY, sa.not_(more))
            .values(state=AgentState.RETIRED.value, reason="imported", ended_at=wall())
        )


def _packable(transaction: Transaction, ids: Sequence[int], packed: set[int]) -> Iterator[Any]:
    """The given jobs that may go, locked. Adds no more than it yields: the caller keeps `packed`."""
    rows = transaction.run(
        sa.select(*CLAIMED, jobs.c.blocked)
        .where(jobs.c.id.in_(ids), QUEUED, jobs.c.wanted)
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    ).all()
    going = set(packed)
    for row in rows:
        if not row.blocked or row.parent_id in going:
            going.add(row.id)
            yield row


def _held(transaction: Transaction, holder: int) -> list[Claim]:
    ids = transaction.run(sa.select(jobs.c.id).where(RUNNING, jobs.c.agent_id == holder).order_by(jobs.c.id))
    return [
        claim
        for batch in batches(list(ids.scalars()))
        for claim in held_claims(transaction, holder, HELD_BY_ID, ids=batch)
    ]
