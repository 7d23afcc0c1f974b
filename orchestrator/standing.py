"""How one sweep stands, as it really is: what the registry counts, less what only seems to run or can't run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow, Blocked, Counts, Sweep
from qsweep.db.standing import standing
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.blockage import blocked_words
from qsweep.orchestrator.layout import counted
from qsweep.orchestrator.lost_jobs import Losses, find_losses


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One look at a sweep. `blocked` are among its queued jobs, and those of `losses` among its running ones."""

    sweep: Sweep
    counts: Counts
    losses: Losses
    blocked: Sequence[Blocked]
    stranded: int = 0
    """Queued jobs of a cancelled sweep."""

    @property
    def is_open(self) -> bool:
        """Whether any job waits or runs."""
        return self.counts.open > 0

    @property
    def waits(self) -> bool:
        """Whether jobs wait that an agent could run now."""
        return self.sweep.state is SweepState.ACTIVE and self.counts.queued > sum(one.jobs for one in self.blocked)

    def row(self) -> dict[str, Any]:
        """What `status` lists. `running` are those that someone works on."""
        counts = {state.value: getattr(self.counts, state.value) for state in State}
        return {
            "sweep": self.sweep.title,
            "state": standing(self.sweep, self.counts),
            "owner": self.sweep.owner,
            "size": self.sweep.size,
            **counts,
            "running": self.counts.running - self.losses.jobs,
            "lost": self.losses.jobs,
            "blocked": sum(one.jobs for one in self.blocked),
            "diverged": self.counts.diverged,
        }

    def words(self) -> Iterator[str]:
        """What a user should know or do something about, a line each."""
        if self.losses.jobs:
            yield self.losses.words(self.sweep)
        yield from blocked_words(self.sweep.title, self.blocked)
        if self.stranded:
            yield _stranded_words(self.sweep, self.stranded)
        if self.counts.diverged:
            trainings = "1 job has" if self.counts.diverged == 1 else f"{self.counts.diverged} jobs have"
            yield f"{self.sweep.title}: {trainings} diverged (done, without a model): qsweep jobs {self.sweep.title}"

    def idle_words(self) -> str:
        """What to do if nobody works."""
        return f"{self.sweep.title}: no agents running; start some with: qsweep resume {self.sweep.title}"


def without_note(held: int) -> str:
    """What an agent is at whose heartbeat has told nothing yet of what it does."""
    return f"begins with {counted(held, 'job')}" if held else "waits for jobs"


def look_at(registry: Registry, sweep: Sweep, lost: Mapping[int, AgentRow]) -> Standing:
    """How the sweep stands, with these agents `lost`. Changes nothing."""
    counts = registry.counts(sweep.id)
    return Standing(
        sweep=sweep,
        counts=counts,
        losses=find_losses(registry, sweep.id, lost) if counts.running else Losses(),
        blocked=registry.blocked(sweep.id) if counts.queued else (),
        stranded=_stranded(registry, sweep) if counts.queued else 0,
    )


def stranded_words(registry: Registry) -> list[str]:
    """A line for each cancelled sweep of which jobs were taken back into the queue."""
    found = [(sweep, _stranded(registry, sweep)) for sweep in registry.sweeps()]
    return [_stranded_words(sweep, jobs) for sweep, jobs in found if jobs]


def _stranded(registry: Registry, sweep: Sweep) -> int:
    return registry.stranded(sweep.id) if sweep.state is SweepState.CANCELLED else 0


def _stranded_words(sweep: Sweep, jobs: int) -> str:
    waiting = counted(jobs, "queued job waits", "queued jobs wait")
    return f"{sweep.title} is cancelled: {waiting} until it goes on with: qsweep resume {sweep.title}"
