"""Agents: their leases, their last words, and the burial of those that died."""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sa

from qsweep.db import failures
from qsweep.db.claims import RENEW
from qsweep.db.connection import Database
from qsweep.db.errors import LeaseLost
from qsweep.db.moments import boot, moment, wall
from qsweep.db.rows import AgentInfo
from qsweep.db.states import AgentState, FailureClass, SweepState
from qsweep.db.tables import RUNNING, agents, jobs, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction

BEAT = RENEW.values(note=sa.bindparam("new_note"))
HELD_BY_NOBODY = (
    sa.select(jobs.c.id)
    .where(RUNNING, jobs.c.agent_id == sa.bindparam("agent"), sa.not_(jobs.c.wanted))
    .where(
        ~sa.exists().where(
            sweep_jobs.c.job_id == jobs.c.id,
            sweep_jobs.c.sweep_id == sweeps.c.id,
            sweeps.c.state != SweepState.CANCELLED.value,
        )
    )
)


def enlist(transaction: Transaction, info: AgentInfo) -> int:
    statement = agents.insert().values(
        host=info.host, pid=info.pid, process_started=info.process_started, boot_id=info.boot_id,
        backend=info.backend, device=info.device, build=info.build, precisions=json.dumps(info.precisions),
        code=info.code, log=info.log, lease=info.lease, state=AgentState.ALIVE.value, note="", reason="",
        clock=boot(), expires=moment() + info.lease, enlisted_at=wall(), beat_at=wall(), place=info.place,
    )  # fmt: skip
    return int(transaction.run(statement.returning(agents.c.id)).scalar_one())


def beat(transaction: Transaction, agent_id: int, note: str) -> frozenset[int]:
    if not transaction.quick(BEAT, {"agent": agent_id, "new_note": note}):
        raise LeaseLost(agent_id)
    return frozenset(row.id for row in transaction.quick(HELD_BY_NOBODY, {"agent": agent_id}))


def retire(transaction: Transaction, agent_id: int) -> None:
    failures.depart(transaction, agent_id, AgentState.RETIRED, FailureClass.PREEMPTED, "retired")


def stop(transaction: Transaction, agent_id: int, reason: str) -> None:
    """Of an agent that still lives, the jobs are handed back; of one that has died, they have been."""
    for was in (AgentState.ALIVE, AgentState.DEAD):
        failures.depart(transaction, agent_id, AgentState.STOPPED, FailureClass.PREEMPTED, reason, was=was)


def bury_dead_processes(database: Database, host: str, boot_id: str, is_alive: Callable[[int, float], bool]) -> int:
    living = (
        sa.select(agents.c.id, agents.c.pid, agents.c.process_started)
        .where(agents.c.host == host, agents.c.boot_id == boot_id, agents.c.state == AgentState.ALIVE.value)
        .order_by(agents.c.id)
    )
    # The processes are looked at between the two transactions, not inside of one.
    dead = [
        row.id for row in database.read(lambda t: t.run(living).all()) if not is_alive(row.pid, row.process_started)
    ]
    for agent_id in dead:
        database.write(
            lambda t, one=agent_id: failures.bury(t, one, FailureClass.LOST, "its process is gone")  # type: ignore[misc]
        )
    return len(dead)
