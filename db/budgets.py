"""What each class of failure costs a job (law 4). No SQL: a rule from what was to what follows."""

from __future__ import annotations

from dataclasses import dataclass

from db.states import FailureClass, State

CRASHES_ALONE = 3
"""A job that dies so often alone, without a newer checkpoint in between, has failed."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a job had behind it when its attempt ended."""

    alone: bool
    slots_limit: int | None
    crashes: int
    losses: int
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
    delay: float


def verdict(record: Record, failure: FailureClass, *, company: int, slots: int, lease: float) -> Verdict:
    """What follows from one failure.

    `company`: how many jobs the agent ran when it happened, this one included. `slots`: how many slots its
    engine had. `lease`: the agent's, in seconds; no backoff is longer, so that law 3 holds.
    """
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
            crashes += 1 if alone or company == 1 else 0
            alone = True
            state = State.FAILED if crashes >= CRASHES_ALONE else State.QUEUED
        case FailureClass.TIMEOUT | FailureClass.INPUT:
            state = State.FAILED
        case FailureClass.STOPPED:
            state = State.CANCELLED
    if state == State.FAILED:
        limit = record.slots_limit
    return Verdict(state=state, alone=alone, slots_limit=limit, crashes=crashes, losses=losses, delay=delay)
