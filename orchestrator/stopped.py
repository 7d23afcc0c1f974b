"""Agents that stopped by themselves, because all that they tried failed while others succeed (`db.weakness`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow
from qsweep.db.states import AgentState
from qsweep.orchestrator.standing import Standing


def stopped_of(registry: Registry, launch: str) -> list[AgentRow]:
    """Those of one launch."""
    return [one for one in registry.agents(AgentState.STOPPED) if (one.place or "").startswith(f"{launch}/")]


def stopped_since(registry: Registry, standings: Iterable[Standing]) -> list[AgentRow]:
    """Those that began after one of these sweeps was launched: one that is not done, or the last one."""
    found = list(standings)
    latest = max(found, key=lambda one: one.sweep.launched_at, default=None)
    since = min((one.sweep.launched_at for one in found if one.is_open or one is latest), default=None)
    if since is None:
        return []
    return [one for one in registry.agents(AgentState.STOPPED) if one.enlisted_at >= since]


def row(agent: AgentRow) -> dict[str, Any]:
    """One of them for JSON."""
    return {"agent": agent.id, "host": agent.host, "pid": agent.pid, "device": agent.device, "reason": agent.reason}


def words(agent: AgentRow) -> str:
    """One of them in a line."""
    return f"agent {agent.id} on {agent.host} stopped: {agent.reason}"
