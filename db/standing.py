"""How a sweep stands, in a word or some: what it was told, and what has become of its jobs. Computed, not stored."""

from __future__ import annotations

from qsweep.db.rows import Counts, Sweep
from qsweep.db.states import SweepState

COMPLETE = "complete"


def standing(sweep: Sweep, counts: Counts) -> str:
    """`active`, `paused (why)`, `cancelled`, or once nothing waits or runs `complete`, with what is lacking."""
    if counts.total == 0 or counts.open:
        return _told(sweep)
    if counts.done == counts.total:
        return COMPLETE if counts.total >= sweep.size else f"{COMPLETE} so far, {counts.total} of {sweep.size} jobs"
    if sweep.state is SweepState.CANCELLED:
        return _told(sweep)
    lacking = [f"{count} {word}" for count, word in ((counts.failed, "failed"), (counts.cancelled, "stopped")) if count]
    return f"ended, {', '.join(lacking)}"


def _told(sweep: Sweep) -> str:
    reason = "" if sweep.reason == sweep.state.value else sweep.reason
    return sweep.state.value + (f" ({reason})" if reason else "")
