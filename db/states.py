"""The states of jobs, sweeps and agents, the classes of failure, and every transition that a job may make."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands, who moves it out of there, and what happens when that process dies.

    QUEUED: waits for an agent. A claim moves it to running; a cancel to cancelled. Nobody's death matters.
    RUNNING: one agent works on it under that agent's lease. The agent's fenced finish, release or fail moves
        it on. When the agent dies, its supervisor, a launcher on the same host, or whichever agent claims
        next takes its lease back, and the job is queued (or failed, once its budget is spent). A job that is
    away in a bundle runs too: an import moves it on, or a recall by the user.
    DONE: one attempt's results are committed. Only an invalidation moves it, back to queued.
    FAILED: its budget is spent. Only a retry (or the invalidation of its parent) moves it, back to queued.
    CANCELLED: no sweep wants it: every sweep that holds it is cancelled or deleted, or a tuning scheduler
        stopped it. Launching one that holds it, or a trial that wants it to go on, moves it back to queued.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.RUNNING),  # claimed
        (State.QUEUED, State.CANCELLED),  # no sweep wants it any more
        (State.RUNNING, State.DONE),  # finished
        (State.RUNNING, State.QUEUED),  # handed back, taken back, failed within its budget, or superseded
        (State.RUNNING, State.FAILED),  # failed beyond its budget
        (State.RUNNING, State.CANCELLED),  # handed back, and no sweep wants it any more
        (State.DONE, State.QUEUED),  # invalidated
        (State.FAILED, State.QUEUED),  # retried
        (State.CANCELLED, State.QUEUED),  # wanted again, by a sweep or by a trial
    }
)


class FailureClass(StrEnum):
    """Why an attempt ended without a result. `db.budgets` says what each class costs."""

    PREEMPTED = "preempted"
    """Handed back on request of a machine: SIGTERM, SIGUSR1, a full disk."""
    INTERRUPTED = "interrupted"
    """Handed back on request of the user: Ctrl-C."""
    LOST = "lost"
    """The machine, the whole process tree or the registry was out of reach, and the lease was taken back."""
    CRASH = "crash"
    """The agent died or raised an exception."""
    MEMORY = "memory"
    """Out of memory: the device's, or the machine's, or killed by the kernel for it."""
    TIMEOUT = "timeout"
    """Longer than the job's time limit."""
    INPUT = "input"
    """The job itself can't be run as it is written."""
    STOPPED = "stopped"
    """A tuning scheduler ended the trial early."""


class Obstacle(StrEnum):
    """Why a parent will not be done, as things stand, so that its children can't run."""

    FAILED = "failed"
    """Its budget is spent: a retry queues it again."""
    CANCELLED = "cancelled"
    """No sweep wants it any more: a launch of one that holds it does again."""
    AWAY = "away"
    """A bundle holds it, until that is imported or recalled."""
    UNWANTED = "unwanted"
    """It is queued, and every sweep that holds it is paused or cancelled."""


class SweepState(StrEnum):
    """Whether a sweep wants its jobs. PAUSED keeps them queued; CANCELLED gives them up.

    DELETED is the end: the sweep holds no job any more, is listed nowhere, and its name is free for another.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DELETED = "deleted"


class AgentState(StrEnum):
    """An incarnation of an agent: ALIVE until it retires by itself, or its lease is taken back (DEAD).

    AWAY is a bundle: it holds the jobs that were packed into it and has no heartbeat, so no clock takes them
    back. It retires when an import brings the last of them home, and is DEAD once they were recalled. While `pack`
    writes it, its holder is ALIVE: if that process dies, its jobs come back as any dead agent's.

    STOPPED is one that only failed while others succeed: nobody starts another in its place (`db.weakness`).
    """

    ALIVE = "alive"
    AWAY = "away"
    RETIRED = "retired"
    DEAD = "dead"
    STOPPED = "stopped"


HOLDING = (AgentState.ALIVE, AgentState.AWAY)
"""The states in which an agent may hold jobs."""
