"""What each class of failure costs a job (law 4). No SQL: a rule from what was to what follows.

Of a crash and of too little memory it is unknown whether the job or the agent's machine is at fault. So, while another
agent is at work, no agent uses up a job's tries by itself: of one agent's tries alone two count, and after each the job
waits a little, so that somebody else may have it. An agent that is alone at work has as many tries as a job has; and
after nine tries in all a job has failed, no matter which agents made them, so that nothing is repeated for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from db.states import FailureClass, State

CRASHES_ALONE = 3
"""A job that dies so often alone, without a newer checkpoint in between, has failed."""

TRIES_OF_ONE = 2
"""So many of the tries of one agent count while another one is at work."""
TRIES_IN_ALL = 9
"""A job has failed after so many tries alone, also if most of them did not count."""
TRIES = (FailureClass.CRASH, FailureClass.MEMORY)
"""The classes by which a job's tries are counted."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a job had behind it when its attempt ended."""

    alone: bool
    slots_limit: int | None
    crashes: int
    losses: int
    tried_by: tuple[int, ...] = ()
    """The agents of its failed tries alone since it last got on, one entry a try."""
    advanced: bool
    """This attempt recorded a checkpoint: it brought the job forward."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where the job goes, and what it has behind it then. `delay`: seconds until it may be claimed again."""

    state: State
    alone: bool
    slots_limit: int | None
    crashes: int
    losses: int
    tried_by: tuple[int, ...] = ()
    delay: float


def verdict(
    record: Record,
    failure: FailureClass,
    *,
    company: int,
    slots: int,
    lease: float,
    agent: int = 0,
    others: bool = False,
) -> Verdict:
    """What follows from one failure.

    `company`: how many jobs the agent ran when it happened, this one included. `slots`: how many slots its
    engine had. `lease`: the agent's, in seconds; no backoff is longer, so that law 3 holds. `agent`: its number.
    `others`: another agent is at work.
    """
    tried_by = () if record.advanced or not record.crashes else record.tried_by
    crashes = 0 if record.advanced else record.crashes
    losses = 0 if record.advanced else record.losses
    state, alone, limit, delay = State.QUEUED, record.alone, record.slots_limit, 0.0
    match failure:
        case FailureClass.PREEMPTED | FailureClass.INTERRUPTED | FailureClass.LOST:
            delay = min(2.0 ** (losses - 1), lease) if losses else 0.0
            losses += 1
        case FailureClass.MEMORY if slots > 1:
            limit = slots // 2
        case FailureClass.CRASH | FailureClass.MEMORY if record.advanced:
            pass
        # A single model without room may have had bad neighbours: it has as many chances as after crashes.
        case FailureClass.CRASH | FailureClass.MEMORY:
            if alone or company == 1:
                crashes += 0 if others and tried_by.count(agent) >= TRIES_OF_ONE else 1
                tried_by = (*tried_by, agent)
                delay = min(2.0 ** (len(tried_by) - 1), lease) if others else 0.0
            alone = True
            spent = crashes >= CRASHES_ALONE or len(tried_by) >= TRIES_IN_ALL
            state = State.FAILED if spent else State.QUEUED
        case FailureClass.TIMEOUT | FailureClass.INPUT:
            state = State.FAILED
        case FailureClass.STOPPED:
            state = State.CANCELLED
    if state == State.FAILED:
        limit, delay = record.slots_limit, 0.0
    return Verdict(
        state=state,
        alone=alone,
        slots_limit=limit,
        crashes=crashes,
        losses=losses,
        tried_by=tried_by,
        delay=delay,
    )
