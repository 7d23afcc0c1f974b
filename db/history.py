"""What became of the jobs (law 5): nothing here changes a row or waits for a writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qsweep.db import lives
from qsweep.db.asking import Asking
from qsweep.db.parts import Part, looks, reads, reads_at_once
from qsweep.db.rows import AttemptRow, Change, Curve, Done, EventRow, Inventory, Record

if TYPE_CHECKING:
    from qsweep.db.transaction import Transaction


class History(Part):
    """What became of the jobs: attempts, events, and the curves of trainings that are not done.

    Consistency: reading never changes state, creates no file and waits for no writer (law 5). Each look that a watcher
    repeats is bounded, or one scan of an index or of the sweep (`db.changes`); the others are plain SQL (`db.lives`).
    """

    @looks
    def attempts(self, asking: Asking, job_id: int) -> list[AttemptRow]:
        """Every execution of the job, the first one first."""
        return lives.attempts(asking, job_id)

    @looks
    def record(self, asking: Asking) -> Record:
        """All jobs and events, at one moment."""
        return lives.record(asking)

    @looks
    def events(
        self,
        asking: Asking,
        job_id: int | None = None,
        *,
        since: int = 0,
        sweep_id: int | None = None,
        limit: int | None = None,
    ) -> list[EventRow]:
        """The events after the event `since`, of one job, one sweep or all, in order."""
        return lives.events(asking, job_id, since, sweep_id, limit)

    @looks
    def loads(self, asking: Asking, agents: Sequence[int], points: int) -> list[dict[str, Any]]:
        """What these agents used over time (`db.rows.Load`), with `agent` and `at`: of each at most about so many means
        over equal parts of the time."""
        return lives.loads(asking, agents, points)

    @looks
    def newest_event(self, asking: Asking) -> int:
        """The number of the newest event: it changes whenever a job does."""
        ((newest,),) = asking.ask("SELECT coalesce(max(id), 0) FROM events")
        return int(newest)

    @looks
    def curves(self, asking: Asking, sweep_id: int) -> list[Curve]:
        """The epochs so far of the sweep's trainings that are not done."""
        return lives.curves(asking, sweep_id)

    @looks
    def curve(self, asking: Asking, job_id: int) -> list[Curve]:
        """The epochs so far of one job, if it is not done and has told any."""
        return lives.curve(asking, job_id)

    @reads
    def recent_changes(self, transaction: Transaction, sweep_id: int, limit: int) -> list[Change]:
        """Up to `limit` of the sweep's newest events, the newest first."""
        from qsweep.db import changes  # here and below: SQLAlchemy takes longer to import than a job's history to read

        return changes.recent_changes(transaction, sweep_id, limit)

    @reads
    def done_after(self, transaction: Transaction, sweep_id: int, job_id: int, limit: int) -> list[Done]:
        """Up to `limit` of the sweep's done jobs beyond `job_id`, in order of registration."""
        from qsweep.db import changes

        return changes.done_after(transaction, sweep_id, job_id, limit)

    @reads
    def news(
        self,
        transaction: Transaction,
        sweep_id: int,
        selection: int | None,
        wanted: Sequence[tuple[int, int | None]],
        limit: int,
    ) -> tuple[list[int], list[Change]]:
        """Up to `limit` of the registry's events with these numbers (stretches of them, first and last), in order:
        their numbers, and those that are of the sweep, or of a selection of its jobs."""
        from qsweep.db import changes

        return changes.news(transaction, sweep_id, selection, wanted, limit)

    @reads_at_once
    def inventory(self, transaction: Transaction, sweep_id: int, selection: int | None) -> Inventory:
        """How the jobs of the sweep, or of a selection, stand, and which events that takes in."""
        from qsweep.db import changes

        return changes.inventory(transaction, sweep_id, selection)
