"""Jobs that are recorded as running, and whose agents are gone. Computed by looking; nothing is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow, Sweep
from qsweep.db.states import SweepState
from qsweep.orchestrator.dead_agents import is_dead_here
from qsweep.orchestrator.layout import duration


def lost_agents(agents: Iterable[AgentRow]) -> dict[int, AgentRow]:
    """Those of the living agents, by number, whose lease has run out, or whose process on this machine is gone."""
    return {agent.id: agent for agent in agents if agent.expired or is_dead_here(agent)}


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Running jobs of one sweep whose agents are gone."""

    jobs: int = 0
    agents: tuple[AgentRow, ...] = ()

    def cause(self) -> str:
        """What became of the agents, in words."""
        overdue = [agent.overdue for agent in self.agents if agent.expired]
        if not overdue:
            return "their agents' processes are gone"
        rest = "" if len(overdue) == len(self.agents) else ", or their processes are gone"
        return f"their agents' leases ran out {duration(max(max(overdue), 0.0))} ago{rest}"

    def words(self, sweep: Sweep) -> str:
        """How many are lost, why, and what to do about it."""
        remedy = f"`qsweep resume {sweep.title}` runs them again"
        if sweep.state is SweepState.CANCELLED:
            remedy = f"`qsweep cancel {sweep.title}` cancels them"
        return f"{sweep.title}: {self.jobs} lost: {self.cause()}; {remedy}"


def find_losses(
    registry: Registry, sweep_id: int, lost: Mapping[int, AgentRow], selection: int | None = None
) -> Losses:
    """What the lost agents hold of this sweep."""
    if not lost:
        return Losses()
    return losses_of(lost, registry.agents.held(sweep_id, selection))


def losses_of(lost: Mapping[int, AgentRow], held: Mapping[int, int]) -> Losses:
    """The same, where it is known how many jobs each agent holds."""
    mine = {agent: jobs for agent, jobs in held.items() if agent in lost}
    return Losses(jobs=sum(mine.values()), agents=tuple(lost[agent] for agent in mine))


def lost_words(registry: Registry) -> list[str]:
    """A line for each sweep of which jobs are lost."""
    lost = lost_agents(registry.catalogue.agents())
    found = [(sweep, find_losses(registry, sweep.id, lost)) for sweep in (registry.catalogue.sweeps() if lost else ())]
    return [losses.words(sweep) for sweep, losses in found if losses.jobs]
