"""A lack of memory is the machine's: what it left on a job holds on the machines on which it happened.

After it a job runs with fewer slots or alone. A machine on which it never ran out of memory forgets that when it is
about to claim the job. So each machine forgets at most once what others left, and finds its own limit; the tries of the
job count on, and a job that crashed in company stays alone wherever it goes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qsweep.db.states import FailureClass
from qsweep.db.tables import CLAIMABLE, agents, attempts, jobs
from qsweep.db.transaction import Transaction

ITS_AGENT, ME = agents.alias("its_agent"), agents.alias("me")


def _ended_in(failure: FailureClass) -> sa.Select[Any]:
    found = sa.select(attempts.c.job_id)
    return found.where(attempts.c.job_id == jobs.c.id, attempts.c.failure_class == failure.value)


OUT_OF_MEMORY = _ended_in(FailureClass.MEMORY)
HERE = (
    OUT_OF_MEMORY.join(ITS_AGENT, ITS_AGENT.c.id == attempts.c.agent_id)
    .join(ME, sa.and_(ME.c.host == ITS_AGENT.c.host, ME.c.boot_id == ITS_AGENT.c.boot_id))
    .where(ME.c.id == sa.bindparam("agent"))
)
CRASHED = _ended_in(FailureClass.CRASH).exists()
LIMITED = sa.or_(jobs.c.slots_limit.is_not(None), sa.and_(jobs.c.alone, sa.not_(CRASHED)))
LIMITED_ELSEWHERE = (
    sa.select(jobs.c.id)
    .where(CLAIMABLE, jobs.c.cohort_key == sa.bindparam("key"), LIMITED)
    .where(OUT_OF_MEMORY.exists(), sa.not_(HERE.exists()))
)
LOCKED = LIMITED_ELSEWHERE.order_by(jobs.c.id).with_for_update(key_share=True, skip_locked=True, of=jobs)


def is_limited_elsewhere(transaction: Transaction, agent_id: int, cohort_key: str) -> bool:
    """Whether this agent's machine would forget something about a job of the cohort that it may claim. Reads only."""
    found = transaction.run(LIMITED_ELSEWHERE.limit(1), {"agent": agent_id, "key": cohort_key})
    return found.first() is not None


def forget_limits(transaction: Transaction, agent_id: int, cohort_key: str) -> int:
    """Forgets what other machines' lack of memory left on the cohort's claimable jobs; how many."""
    ids = list(transaction.run(LOCKED, {"agent": agent_id, "key": cohort_key}).scalars())
    if ids:
        freed = {"slots_limit": None, "alone": sa.and_(jobs.c.alone, CRASHED)}
        transaction.run(jobs.update().where(jobs.c.id.in_(ids)).values(**freed))
    return len(ids)
