"""What a registry and a bundle have in common beside `db.budgets`: the order of claims, and what is kept. No SQL."""

from __future__ import annotations

LEASE = 30.0
"""Seconds for which an agent lives without a heartbeat, unless it says otherwise. No backoff is longer."""
KEPT = 2
"""Checkpoints recorded per job."""
ERROR_TAIL = 8_000
"""Characters of an error that an attempt keeps: its end, where the cause stands."""


def place_in_queue(cost: float, cohort_key: str, progress: int, job_id: int) -> tuple[float, str, int, int]:
    """By what claimable jobs are ordered: expensive ones first, cohort by cohort, further progress first.

    `db.claims.ORDER` is the same in SQL.
    """
    return -cost, cohort_key, -progress, job_id


def most_together(limit: int, *, alone: bool, slots_limit: int | None) -> int:
    """How many jobs may be claimed at once: those of a cohort, up to `limit`, or fewer after failures."""
    return 1 if alone else min(limit, slots_limit or limit)


def share(limit: int, claimable: int, sharers: int) -> int:
    """How many jobs one of so many agents claims at once, up to `limit`, where what is claimable is shared among them:
    a fair part of what is left, as in guided self-scheduling (Polychronopoulos and Kuck, 1987)."""
    return max(1, min(limit, -(-claimable // sharers)))
