"""Weakness: a place in which all that is tried fails, while others succeed with jobs of the same kind (law 4).

An agent is judged together with those that worked in its place before it. Against it count its last tries alone that
ended in a crash or without memory, and those that found a job too long or its input bad: each of a job that nobody else
has tried without success, and like one that another live agent has done or is advancing. A place that never got a
job done stops after four of these if they are alike by cohort, or eight if they are alike by kind; one that did, after
twelve, alike by cohort.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db.moments import boot, moment
from qsweep.db.states import AgentState, FailureClass, State
from qsweep.db.tables import RUNNING, agents, events, jobs
from qsweep.db.transaction import Transaction

SAME_COHORT, SAME_KIND = 4, 8
"""The most tries of a place that never got a job done: fewer than a job has in all."""
LATELY = 12
"""The most of one that did."""
DONE = jobs.c.state == State.DONE.value
WORDS = {
    FailureClass.MEMORY.value: "out of memory",
    FailureClass.CRASH.value: "crashed",
    FailureClass.TIMEOUT.value: "over the time limit",
    FailureClass.INPUT.value: "bad input",
}
GETS_ON = sa.and_(RUNNING, jobs.c.advanced)


def note_tries(
    transaction: Transaction, agent_id: int, tried: Sequence[int], failure: FailureClass, *, got_on: bool
) -> None:
    """Remember that an agent has just failed at these jobs alone; or that it `got_on` with some, and forget."""
    if got_on:
        forgotten = agents.update().where(agents.c.id == agent_id, agents.c.tries.is_not(None))
        transaction.run(forgotten.values(tries=None))
    elif tried:
        newest = transaction.run(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
        before = transaction.run(sa.select(agents.c.tries).where(agents.c.id == agent_id)).scalar_one()
        tries = [*json.loads(before or "[]"), *([newest, job, failure.value] for job in tried)]
        values = {"tries": json.dumps(tries[-LATELY:])}
        transaction.run(agents.update().where(agents.c.id == agent_id).values(**values))


def reason_to_stop(transaction: Transaction, agent_id: int) -> str:
    """Why this agent, and any other in its place, should do no more; empty if it should go on. Reads only."""
    place = _place(transaction, agent_id)
    ids = [row.id for row in place]
    tries = sorted(one for row in place for one in json.loads(row.tries or "[]"))
    mine = jobs.c.agent_id.in_(ids)
    if len(tries) < SAME_COHORT or transaction.run(sa.select(jobs.c.id).where(GETS_ON, mine).limit(1)).first():
        return ""
    done = sa.and_(events.c.agent_id.in_(ids), events.c.target == State.DONE.value, events.c.id > tries[0][0])
    last = transaction.run(sa.select(sa.func.max(events.c.id)).where(done)).scalar() or 0
    tries = [one for one in tries if one[0] >= last]
    ever = transaction.run(sa.select(jobs.c.id).where(DONE, mine).limit(1)).first() is not None
    limits = [("cohort_key", LATELY)] if ever else [("cohort_key", SAME_COHORT), ("kind", SAME_KIND)]
    for likeness, limit in limits:
        if len(against := _that_others_can_do(transaction, ids, tries, likeness)) >= limit:
            causes = sorted({WORDS[cause] for _, _, cause in against[-limit:]})
            return f"its last {limit} tries all failed ({', '.join(causes)}), while others succeed"
    return ""


def _place(transaction: Transaction, agent_id: int) -> list[Any]:
    """This agent and those that worked in its place on its machine."""
    columns = (agents.c.id, agents.c.host, agents.c.boot_id, agents.c.place, agents.c.tries)
    me = transaction.run(sa.select(*columns).where(agents.c.id == agent_id)).one()
    if not me.place:
        return [me]
    same = (agents.c.place == me.place, agents.c.host == me.host, agents.c.boot_id == me.boot_id)
    return list(transaction.run(sa.select(*columns).where(*same)).all())


def _that_others_can_do(transaction: Transaction, ids: Sequence[int], tries: Sequence[Any], likeness: str) -> list[Any]:
    """Those of the tries that say more of the place than of the job: others get on with jobs that are alike in this
    column, and none of them has tried this very job without success."""
    column = jobs.c[likeness]
    tried = sa.select(jobs.c.id, column.label("like"), jobs.c.crashes, jobs.c.tried_by)
    rows = transaction.run(tried.where(jobs.c.id.in_([job for _, job, _ in tries]))).all()
    alike = {
        row.id: row.like for row in rows if not row.crashes or set(ids).issuperset(json.loads(row.tried_by or "[]"))
    }
    living = sa.select(agents.c.id).where(
        agents.c.state == AgentState.ALIVE.value,
        agents.c.expires >= moment(),
        agents.c.clock == boot(),
        agents.c.id.not_in(ids),
    )
    theirs = sa.and_(jobs.c.agent_id.in_(living), column.in_(sorted(set(alike.values()))), sa.or_(DONE, GETS_ON))
    possible = set(transaction.run(sa.select(column).where(theirs).distinct()).scalars())
    return [one for one in tries if alike.get(one[1]) in possible]
