"""What a backend has to do."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from qsweep.db.home import Home
from qsweep.db.rows import EVERYTHING, AgentRow, Scope
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.starts import Start
from qsweep.sweeps.errors import QsweepError


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where agents would run, and how many."""

    hosts: frozenset[str]
    """The machines' names, as `socket.gethostname()` gives them there."""
    agents: int


class StartRefused(QsweepError):
    """The cluster accepts no more agents at the moment; `begun` of them it took before."""

    def __init__(self, problem: str, *, begun: int = 0) -> None:
        super().__init__(problem)
        self.begun = begun


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The agents of one sweep: how many, where their registry and data are, and how long their lease lasts."""

    home: Home
    workers: int
    gpus: int
    lease: float
    scope: Scope = EVERYTHING
    """What to work for: a sweep, or a selection of its jobs."""
    title: str = ""
    """The sweep's name, for people."""
    time_limit: float | None = None
    """Seconds after which an attempt of a job fails; None is no limit."""
    code: str
    """Version of the snapshot of the code that the agents run."""
    launch: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """What the names of its agents' places begin with, before a slash: those of another launch are others."""


class Backend(ABC):
    """Starts agents and watches them. It schedules no machine and hands out no job.

    1. Agents find their work in the registry by themselves, and outlive the launcher. Where they are `independent`
       it leaves them alone when it fails or is told to end, and only Ctrl-C stops them.
    2. `check` and then `survey` refuse what can't be had, and change nothing. They come first, before anything is
       registered; `check` before any process is started that has to import torch.
    3. `adopt` names the fleet to keep up, and finds what an earlier launch of it started. All below is about that
       fleet.
    4. `start` may return before an agent runs: one that waits in a queue is alive too.
    5. What `start` began can be found again from the home alone: it leaves a record there (`orchestrator.starts`),
       from whose options `resume` makes the same backend, and which `describe` puts in words for `qsweep status`.
    """

    name: ClassVar[str]
    independent: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The backend with these options of its own, as a record holds them. Raises InputError for unknown ones."""
        assert not options, f"{cls.name} has no options"
        return cls()

    def check(self, home: Home, workers: int | None) -> None:  # noqa: B027 - most backends are always there
        """Raises InputError for what can be seen to fail at once: a cluster that is not there, options that it refuses,
        a home that it can't name."""

    @abstractmethod
    def survey(self, machine: Machine, workers: int | None) -> Site:
        """Where the agents would run, and how many: `workers`, or as many as there is room for.

        `machine` is the one that asks. Raises InputError for a cluster that can't be reached and for resources that
        none of its nodes has.
        """

    def check_home(self, home: Home) -> None:  # noqa: B027 - most backends have nothing to ask
        """Raises InputError if a node could not work for this home. Comes with `survey`, and leaves nothing behind."""

    @abstractmethod
    def adopt(self, fleet: Fleet) -> None:
        """Take this fleet over. Called once, before all that follows."""

    @abstractmethod
    def start(self, count: int) -> None:
        """Start that many more agents. Raises StartRefused if the cluster takes no more; it may later."""

    def leave(self, count: int) -> str:
        """Start that many more agents, and see to it that the fleet is kept up when this process has ended; in words.

        Raises StartRefused.
        """
        self.start(count)
        return "1 agent started" if count == 1 else f"{count} agents started"

    @abstractmethod
    def alive(self) -> int:
        """How many agents run or wait to run, those of an earlier launch included if they can be found."""

    def size(self, fleet: Fleet) -> int:
        """How many agents the fleet should have by now: more than at first if the cluster has grown since, fewer if
        the user took some away, on the cluster itself, while this launch watched."""
        return fleet.workers

    def others(self, agents: Sequence[AgentRow]) -> int:
        """How many of the registry's living agents do the fleet's work and are not counted by `alive`."""
        return 0

    def remarks(self) -> list[str]:
        """What keeps agents from working, in plain words, a line each."""
        return []

    def look_closely(self) -> None:  # noqa: B027 - most backends see their agents at once
        """Agents are about to end: answer from now on as fresh as the cluster allows."""

    @abstractmethod
    def stop(self, *, by_user: bool = False) -> None:
        """Ask every agent to write a checkpoint, hand its jobs back and exit. Returns at once.

        `by_user`: it was Ctrl-C, and what the agents hand back is to say so, where the cluster can pass that on.
        """

    @abstractmethod
    def kill(self) -> None:
        """End every agent at once."""

    @classmethod
    def describe(cls, home: Home, starts: Sequence[Start]) -> list[str]:
        """What became of these earlier starts, in plain words, a line each; nothing about agents at work."""
        return []

    @classmethod
    def withdraw(cls, starts: Sequence[Start]) -> None:
        """Take those agents of a given-up sweep back that still wait for their turn; the others leave by themselves."""
        return
