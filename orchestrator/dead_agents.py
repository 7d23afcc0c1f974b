"""Dead agents of this machine, and the taking back of what they held."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from qsweep.db.clock import machine_id, process_started
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentRow

GRACE = 3.0
"""Seconds that a dead agent's supervisor has to report the death itself: only it knows a crash from a loss."""


class DeadAgents:
    """Which agents' deaths their supervisors have had time to report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[int, float], float] = {}

    def is_over(self, pid: int, started: float) -> bool:
        """Whether this process has been gone for longer than the grace."""
        return not is_alive(pid, started) and (
            self._clock() - self._since.setdefault((pid, started), self._clock()) >= GRACE
        )


def mark_dead_agents(registry: Registry, is_over: Callable[[int, float], bool] | None = None) -> None:
    """Take back what dead agents of this machine held."""
    registry.agents.mark_dead_processes(
        host=socket.gethostname(),
        boot_id=machine_id(),
        is_alive=is_alive if is_over is None else lambda pid, started: not is_over(pid, started),
    )


def is_seen_from_here(agent: AgentRow) -> bool:
    """Whether this agent's pid means something here: it runs on this machine, in this pid namespace."""
    return agent.host == socket.gethostname() and agent.boot_id == machine_id()


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this number and start time still runs."""
    import psutil

    try:
        same = abs(process_started(pid) - started) < 0.5
        return same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_dead_here(agent: AgentRow) -> bool:
    """Whether this agent's process ran on this machine since it was booted, and runs no more."""
    return is_seen_from_here(agent) and not is_alive(agent.pid, agent.process_started)
