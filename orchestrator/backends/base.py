"""What a backend has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from db.home import Home
from db.rows import EVERYTHING, Scope


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The agents to start: how many, where their registry and data are, and how long their lease lasts."""

    home: Home
    workers: int
    gpus: int
    lease: float
    scope: Scope = EVERYTHING
    """What to work for: a sweep, or a selection of its jobs."""
    time_limit: float | None = None
    """Seconds after which an attempt of a job fails; None is no limit."""
    code: str
    """Version of the snapshot of the code that the agents run."""


class Backend(ABC):
    """Starts agents and watches them. Agents find their work in the registry by themselves."""

    name: str

    @abstractmethod
    def start(self, fleet: Fleet) -> None:
        """Start the agents that are missing of `fleet.workers`."""

    @abstractmethod
    def alive(self) -> int:
        """How many of the started agents still run."""

    @abstractmethod
    def started(self, pid: int) -> bool:
        """Whether this agent's process on this machine was started by this backend, or is gone already."""

    @abstractmethod
    def stop(self) -> None:
        """Ask every agent to write a checkpoint, hand its jobs back and exit. Returns at once."""

    @abstractmethod
    def kill(self) -> None:
        """End every agent at once."""
