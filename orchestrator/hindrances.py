"""What a launch waits for while none of its own agents gets on, in words."""

from __future__ import annotations

import socket

from qsweep.db.registry import Registry
from qsweep.db.rows import Scope
from qsweep.orchestrator.layout import duration
from qsweep.orchestrator.upkeep import Look
from qsweep.sweeps.words import counted


def hindrances(registry: Registry, scope: Scope, look: Look, *, running: int) -> dict[str, str]:
    """By kind, so that each is said as it begins and not again as its numbers change. Changes nothing."""
    found: dict[str, str] = {}
    if look.others and look.alive + look.others >= look.wanted > look.alive:
        found["others"] = (
            f"{_agents(look.others)} at work that this launch has not started, in the place of its own; they take its "
            f"jobs if they may, and it starts agents as they end (qsweep status shows them)"
        )
    if look.alive:
        return found
    if running and "others" not in found:
        found |= _held(registry, scope)
    if not running and (delay := registry.remaining(scope).delay):
        found["pause"] = f"jobs that failed or were lost wait before they run again, the first for {duration(delay)}"
    return found


def _held(registry: Registry, scope: Scope) -> dict[str, str]:
    """Jobs that agents hold which this launch has not started and can't see."""
    assert scope.sweep is not None
    held = registry.held(scope.sweep, scope.selection)
    holders = [agent for agent in registry.agents() if agent.id in held]
    if not holders:
        return {}
    jobs = sum(held[agent.id] for agent in holders)
    hosts = ", ".join(
        sorted({agent.host if agent.host != socket.gethostname() else "this machine" for agent in holders})
    )
    lease = max(agent.lease for agent in holders)
    return {
        "held": f"{counted(jobs, 'job is', 'jobs are')} held by {_agents(len(holders), verb=False)} on {hosts}; "
        f"those of an agent that stays silent for {lease:g} s come back"
    }


def _agents(count: int, *, verb: bool = True) -> str:
    noun = "1 agent" if count == 1 else f"{count} agents"
    return noun if not verb else f"{noun} {'is' if count == 1 else 'are'}"
