"""What each class of failure costs a job (law 4). No SQL: a rule from what was to what follows.

Of a crash and of too little memory it is unknown whether the job or the machine is at fault. So a job has failed after
three tries alone, but while other machines are at work not by one of them: as many different ones must have tried it as
are at work, up to three. Where one machine is at work, two of its places must have, if there are two: a place is an
agent and those that are started again after it. After each such try the job waits a little, so that somebody else may
have it; and after nine tries in all it has failed, no matter who made them, so that nothing is repeated for ever.

A job that ran into its time limit, or whose input is bad, has failed at the first try; but while other machines are at
work a second one must have found the same: the first may be too slow, or its data or its libraries may be others.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsweep.db.states import FailureClass, State

CRASHES_ALONE = 3
"""A job that dies so often alone, without a newer checkpoint in between, has failed."""
MACHINES = 3
"""It has failed when that many different machines have tried it, if that many are at work."""
PLACES = 2
"""So many places must have, if all that are at work are on one machine."""
WITNESSES = 2
"""It has failed when that many machines found the job too long, or its input bad, if that many are at work."""
TRIES_IN_ALL = 9
"""A job has failed after that many tries alone, no matter which agents made them."""
TRIES = (FailureClass.CRASH, FailureClass.MEMORY)
"""The classes in which a job has several tries on one machine."""
ONCE = (FailureClass.TIMEOUT, FailureClass.INPUT)
"""The classes in which it has one try a machine."""


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

    def tries_of(self, failure: FailureClass) -> tuple[int, ...]:
        """Those of `tried_by` that stand against the job when it fails in this class."""
        return self.tried_by if failure in ONCE else self.tries

    @property
    def tries(self) -> tuple[int, ...]:
        """Those of `tried_by` that still stand against the job."""
        return () if self.advanced or not self.crashes else self.tried_by


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
    by: int = 1,
    needed: int = 1,
) -> Verdict:
    """What follows from one failure.

    `company`: how many jobs the agent ran when it happened, this one included. `slots`: how many slots its
    engine had. `lease`: the agent's, in seconds; no backoff is longer, so that law 3 holds. `agent`: its number. `by`:
    how many different machines, or places on one, have tried it without success, this one included. `needed`: how
    many of them it takes.
    """
    tried_by = record.tries
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
                crashes += 1
                tried_by = (*tried_by, agent)
                delay = min(2.0 ** (crashes - 1), lease) if needed > 1 else 0.0
            alone = True
            spent = (crashes >= CRASHES_ALONE and by >= needed) or crashes >= TRIES_IN_ALL
            state = State.FAILED if spent else State.QUEUED
        case FailureClass.TIMEOUT | FailureClass.INPUT:  # a checkpoint makes neither of them better
            crashes += 1
            tried_by = (*record.tried_by, agent)
            delay = min(2.0 ** (len(tried_by) - 1), lease)
            spent = by >= min(needed, WITNESSES) or len(tried_by) >= TRIES_IN_ALL
            state = State.FAILED if spent else State.QUEUED
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
