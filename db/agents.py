"""Agents: their leases, and marking dead those whose lease ran out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import claims, failures
from qsweep.db.moments import boot, moment, wall
from qsweep.db.parts import Part, reads, writes
from qsweep.db.rows import AgentInfo
from qsweep.db.states import AgentState, FailureClass
from qsweep.db.tables import RUNNING, agents, jobs, selections, sweep_jobs
from qsweep.db.transaction import Transaction


class Agents(Part):
    """Agents: enlisting, retiring, and marking dead those whose lease ran out or whose process is gone.

    Ownership: an agent's jobs are its own for as long as the lease on its row lasts, which one heartbeat renews for all
    of them. Whoever ends the agent, by its own word or over its head, ends in the same transaction all that it ran.
    Consistency: a dead agent's jobs run again within two leases, without a repair command: a supervisor reports the
    death of its agent, a launcher that of any process on its machine, and every claim takes back expired leases first.
    Postgres' `clock_timestamp()` decides there; on SQLite the boot clock together with the boot id, so no change of the
    wall clock matters.
    """

    @writes
    def enlist(self, transaction: Transaction, info: AgentInfo) -> int:
        """A new incarnation of an agent, with a lease; returns its id."""
        statement = agents.insert().values(
            host=info.host, pid=info.pid, process_started=info.process_started, boot_id=info.boot_id,
            backend=info.backend, device=info.device, build=info.build, precisions=json.dumps(info.precisions),
            code=info.code, log=info.log, lease=info.lease, state=AgentState.ALIVE.value, note="", reason="",
            clock=boot(), expires=moment() + info.lease, enlisted_at=wall(), beat_at=wall(), place=info.place,
        )  # fmt: skip
        return int(transaction.run(statement.returning(agents.c.id)).scalar_one())

    @writes
    def retire(self, transaction: Transaction, agent_id: int) -> None:
        """The agent leaves; what it still held is queued again."""
        failures.end_agent(transaction, agent_id, AgentState.RETIRED, FailureClass.PREEMPTED, "retired")

    @writes
    def stop(self, transaction: Transaction, agent_id: int, reason: str) -> None:
        """The agent stops for this reason; what it still held is queued again. One that has died is noted as such."""
        for was in (AgentState.ALIVE, AgentState.DEAD):
            failures.end_agent(transaction, agent_id, AgentState.STOPPED, FailureClass.PREEMPTED, reason, was=was)

    @writes
    def mark_dead(
        self,
        transaction: Transaction,
        agent_id: int,
        failure_class: FailureClass,
        error: str,
        *,
        slots: int | None = None,
        kind: str = "",
    ) -> int:
        """Its supervisor saw it die: its jobs end in this class; returns how many.

        `slots` and `kind` as in `Queue.fail`.
        """
        return failures.mark_dead(transaction, agent_id, failure_class, error, slots, kind)

    def mark_dead_processes(self, *, host: str, boot_id: str, is_alive: Callable[[int, float], bool]) -> int:
        """Takes back at once the leases of this host's dead agents; returns how many agents.

        `boot_id` is `db.clock.machine_id`. `is_alive(pid, process_started)` is asked about each agent that enlisted
        with the same one; any other, of an earlier boot or another container of this name, lives by its lease alone.
        """
        # The processes are looked at between the transactions, not inside of one.
        living = self._database.read(lambda t: _living(t, host, boot_id))
        dead = [row.id for row in living if not is_alive(row.pid, row.process_started)]
        for agent_id in dead:
            self.mark_dead(agent_id, FailureClass.LOST, "its process is gone")
        return len(dead)

    @writes
    def take_back_expired(self, transaction: Transaction) -> int:
        """Takes back expired leases (as every claim does first); returns how many agents."""
        return claims.take_back_expired(transaction)

    @reads
    def held(
        self, transaction: Transaction, sweep_id: int | None = None, selection: int | None = None
    ) -> dict[int, int]:
        """How many running jobs each agent holds: of the sweep, or of a selection of them; of all without either."""
        statement = sa.select(jobs.c.agent_id, sa.func.count().label("jobs")).where(RUNNING)
        if selection is not None:
            members = sa.select(selections.c.job_id).where(selections.c.selection == selection)
            statement = statement.where(jobs.c.id.in_(members))
        elif sweep_id is not None:
            members = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep_id == sweep_id)
            statement = statement.where(jobs.c.id.in_(members))
        rows = transaction.run(statement.group_by(jobs.c.agent_id))
        return {row.agent_id: row.jobs for row in rows if row.agent_id is not None}


def _living(transaction: Transaction, host: str, boot_id: str) -> Sequence[Any]:
    """The living agents of this machine."""
    return transaction.run(
        sa.select(agents.c.id, agents.c.pid, agents.c.process_started)
        .where(agents.c.host == host, agents.c.boot_id == boot_id, agents.c.state == AgentState.ALIVE.value)
        .order_by(agents.c.id)
    ).all()
