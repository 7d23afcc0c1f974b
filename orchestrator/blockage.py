"""Queued jobs that can't run as things stand, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qsweep.db.rows import Blocked
from qsweep.db.states import Obstacle

NAMED = 3
"""Parents that a line names at most."""
CAUSES = {
    Obstacle.FAILED: ("failed", "see why with: qsweep show {job}; try again with: qsweep retry {sweep}"),
    Obstacle.CANCELLED: ("cancelled", "go on with: qsweep resume {sweep}"),
    Obstacle.AWAY: ("away in a bundle", "bring it home with: qsweep import, or take it back with: qsweep recall"),
    Obstacle.UNWANTED: ("wanted by no active sweep", "go on with: qsweep resume {sweep}"),
}
"""What became of the parents, and what to do about it."""


def blocked_words(sweep: str, blocked: Sequence[Blocked]) -> Iterator[str]:
    """One line an obstacle: how many jobs wait for which parents, and what to do."""
    for obstacle, (became, remedy) in CAUSES.items():
        some = [one for one in blocked if one.obstacle is obstacle]
        if not some:
            continue
        jobs, parents = sum(one.jobs for one in some), [one.parent[:12] for one in some]
        named = ", ".join(parents[:NAMED]) + (f" and {len(parents) - NAMED} more" if len(parents) > NAMED else "")
        wait = f"{jobs} jobs can't run" if jobs > 1 else "1 job can't run"
        trainings = "trainings are" if len(parents) > 1 else "training is"
        yield f"{sweep}: {wait}: their {trainings} {became} ({named}); {remedy.format(job=parents[0], sweep=sweep)}"
