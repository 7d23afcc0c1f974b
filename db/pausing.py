"""The circuit breaker: a sweep whose recent jobs mostly fail alike is paused, and says why.

Alike are failures of one class and one kind of error (`events.cause`): the type of an exception, the signal or exit
code of a process. Texts differ from job to job, by a step, a path or a number of bytes; they are for people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from qsweep.db.control import pause
from qsweep.db.states import State, SweepState
from qsweep.db.tables import events, sweep_jobs, sweeps
from qsweep.db.transaction import Transaction

WINDOW = 20
"""How many of a sweep's last ended jobs are looked at."""
ALIKE = 10
"""So many failures of them with the same cause pause the sweep."""

CAUSE = sa.func.coalesce(events.c.cause, events.c.detail).label("cause")
"""Events of older versions have their text alone."""


def pause_failing_sweeps(transaction: Transaction, failed: Sequence[int]) -> None:
    """Looks at every active sweep that holds one of the jobs that have just failed."""
    concerned = (
        sa.select(sweeps.c.id, sweeps.c.watched_from)
        .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps.c.id)
        .where(sweep_jobs.c.job_id.in_(failed), sweeps.c.state == SweepState.ACTIVE.value)
        .distinct()
    )
    for sweep in transaction.run(concerned).all():
        recent = (
            sa.select(events.c.target, events.c.detail, CAUSE)
            .join(sweep_jobs, sweep_jobs.c.job_id == events.c.job_id)
            .where(
                sweep_jobs.c.sweep_id == sweep.id,
                events.c.id > sweep.watched_from,
                events.c.target.in_([State.DONE.value, State.FAILED.value]),
            )
            .order_by(events.c.id.desc())
            .limit(WINDOW)
        )
        failures = [row for row in transaction.run(recent) if row.target == State.FAILED]
        causes = Counter(row.cause for row in failures)
        if causes and (most := causes.most_common(1)[0])[1] >= ALIKE:
            last = next(row.detail for row in failures if row.cause == most[0])
            pause(transaction, sweep.id, f"{most[1]} of the last {WINDOW} jobs failed alike (the last: {last})")
