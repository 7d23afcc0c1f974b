"""Postgres: a claim, or a finish, with all that belongs to it as one statement, which is a transaction by itself.

Each statement that a transaction is saved is a journey to the server. SQLite makes no journeys, and can't change
several tables by one statement; there `db.claims` and `db.outcomes` do the same step by step, as they do here for
whatever is rarer: leases that ran out, parents and their children, an answer that was lost.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from qsweep.db import claims, outcomes
from qsweep.db.claims import INSIDE, RENEW
from qsweep.db.connection import Database
from qsweep.db.errors import LeaseLost
from qsweep.db.moments import wall
from qsweep.db.rows import Accepted, Claim, Finished, Head, Scope
from qsweep.db.states import TRANSITIONS, State
from qsweep.db.tables import attempts, checkpoints, curves, events, jobs
from qsweep.db.transaction import Transaction
from qsweep.sweeps.faults import point


def _link(name: str, table: sa.Table, values: dict[str, Any]) -> sa.CTE:
    """Rows of `values`, each from a statement before, go into the table."""
    return table.insert().from_select(list(values), sa.select(*values.values())).cte(name)


def _recorded(changed: sa.CTE, source: State, target: State, detail: Any) -> sa.CTE:
    assert (source, target) in TRANSITIONS, f"{source} → {target} is no transition"
    values = {
        "job_id": changed.c.id,
        "at": wall(),
        "source": sa.literal(source.value, sa.Text),
        "target": sa.literal(target.value, sa.Text),
        "agent_id": sa.bindparam("agent", type_=sa.BigInteger),
        "attempt": changed.c.attempt,
        "detail": detail,
    }
    return _link("recorded", events, values)


def _claim_statement(*inside: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """One row per claimed job, or one without a job; none if the lease was lost."""
    renewed = RENEW.cte("renewed")
    claimed = claims.claim_statement(
        *inside, sa.exists(sa.select(renewed.c.id).where(sa.not_(renewed.c.others_expired)))
    ).cte("claimed")
    attempt = {
        "job_id": claimed.c.id,
        "attempt": claimed.c.attempt,
        "agent_id": sa.bindparam("agent", type_=sa.BigInteger),
        "claim": sa.bindparam("claim", type_=sa.BigInteger),
        "resumed_from": claimed.c.progress,
        "started_at": wall(),
        "error": sa.literal("", sa.Text),
    }
    started = _link("started", attempts, attempt)
    recorded = _recorded(claimed, State.QUEUED, State.RUNNING, claimed.c.detail)
    found = renewed.outerjoin(claimed, sa.true())
    return sa.select(renewed.c.others_expired, *claimed.c).select_from(found).add_cte(started, recorded)


def _finish_statement() -> sa.Select[Any]:
    """One row per job that passed the fence, with the checkpoint files that it no longer needs."""
    given = (
        sa.func.json_to_recordset(sa.cast(sa.bindparam("given"), sa.JSON))
        .table_valued(
            sa.column("job_id", sa.BigInteger),
            sa.column("attempt", sa.Integer),
            sa.column("publication", sa.Text),
            sa.column("model_file", sa.Text),
            sa.column("model_hash", sa.Text),
            sa.column("diverged", sa.Boolean),
            sa.column("unkept", sa.Boolean),
            name="given",
        )
        .render_derived(with_types=True)
    )
    # A parent is left to `outcomes`: this statement can't see children that are registered while it waits for a lock.
    fence = (
        sa.not_(jobs.c.has_children),
        jobs.c.id == given.c.job_id,
        jobs.c.attempt == given.c.attempt,
        sa.or_(sa.not_(given.c.unkept), sa.not_(outcomes.ASKED)),
        jobs.c.state == State.RUNNING.value,
        jobs.c.agent_id == sa.bindparam("agent", type_=sa.BigInteger),
    )
    held = sa.select(*given.c).join(jobs, sa.and_(*fence)).with_for_update(key_share=True, of=jobs).cte("held")
    result = {name: held.c[name] for name in ("publication", "model_file", "model_hash", "diverged")}
    finished = (
        jobs.update()
        .where(jobs.c.id == held.c.job_id)
        .values(state=State.DONE.value, failure_class=None, ended_at=wall(), **result)
        .returning(jobs.c.id, jobs.c.attempt, jobs.c.diverged, jobs.c.publication)
        .cte("finished")
    )
    ended = (
        attempts.update()
        .where(attempts.c.job_id == finished.c.id, attempts.c.attempt == finished.c.attempt)
        .values(ended_at=wall(), outcome=State.DONE.value, failure_class=None, error="")
        .values(publication=finished.c.publication)
        .cte("ended")
    )
    detail = sa.case((finished.c.diverged, outcomes.DIVERGED), else_="")
    recorded = _recorded(finished, State.RUNNING, State.DONE, detail)
    forgotten = (
        checkpoints.delete()
        .where(checkpoints.c.job_id.in_(sa.select(finished.c.id)))
        .returning(checkpoints.c.job_id, checkpoints.c.file)
        .cte("forgotten")
    )
    drawn = curves.delete().where(curves.c.job_id.in_(sa.select(finished.c.id))).cte("drawn")
    found = finished.outerjoin(forgotten, forgotten.c.job_id == finished.c.id)
    return sa.select(finished.c.id, forgotten.c.file).select_from(found).add_cte(ended, recorded, drawn)


CLAIM = {kind: _claim_statement(*inside) for kind, inside in INSIDE.items()}
FINISH = _finish_statement()


def claim(database: Database, agent_id: int, head: Head, limit: int, scope: Scope) -> list[Claim]:
    """As `Registry.claim` says."""
    # If an answer is lost, the repetition finds its own claim by this number.
    number = random.getrandbits(62)
    if not database.chains or head.job.parent is not None:
        return database.write(lambda t: claims.claim(t, agent_id, head, limit, number, scope))
    rows = database.glance(lambda t: _claimed(t, agent_id, head, limit, number, scope))
    if rows is None:
        return database.write(lambda t: claims.claim(t, agent_id, head, limit, number, scope, again=True))
    saved = [row.id for row in rows if row.progress]
    return claims.claims_of(rows, database.read(lambda t: claims.saved(t, saved)) if saved else {})


def _claimed(
    transaction: Transaction, agent_id: int, head: Head, limit: int, number: int, scope: Scope
) -> list[Any] | None:
    """The rows of the claimed jobs; None if it is to be done step by step."""
    if transaction.again:
        return None
    point("claim.uncommitted")
    values = claims.wanted(agent_id, head, limit, scope) | {"claim": number}
    rows = transaction.quick(CLAIM[scope.kind], values)
    if not rows:
        raise LeaseLost(agent_id)
    return None if rows[0].others_expired else [row for row in rows if row.id is not None]


def finish(database: Database, agent_id: int, given: Sequence[Finished]) -> Accepted:
    """As `Registry.finish` says."""
    if not database.chains:
        return database.write(lambda t: outcomes.finish(t, agent_id, given))
    rows = database.glance(lambda t: _finished(t, agent_id, given))
    passed = Accepted(
        jobs=frozenset(row.id for row in rows),
        deletable=tuple(dict.fromkeys(row.file for row in rows if row.file is not None)),
    )
    rest = [one for one in given if one.job_id not in passed.jobs]
    if not rest:
        return passed
    others = database.write(lambda t: outcomes.finish(t, agent_id, rest))
    return Accepted(jobs=passed.jobs | others.jobs, deletable=passed.deletable + others.deletable, asked=others.asked)


def _finished(transaction: Transaction, agent_id: int, given: Sequence[Finished]) -> list[Any]:
    point("finish.uncommitted", len(given))
    # In this order they are locked, so that two agents never wait for each other.
    ordered = [vars(one) for one in sorted(given, key=lambda one: one.job_id)]
    return transaction.quick(FINISH, {"agent": agent_id, "given": json.dumps(ordered)})
