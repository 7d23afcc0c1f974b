"""How the work on a cohort may end without results, and what that means for its jobs."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator

from qsweep.db.errors import RegistryFull
from qsweep.db.states import FailureClass
from qsweep.sweeps.errors import InputError

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""What torch's RuntimeError names when the machine's memory is at an end."""


DISK_FULL = "the disk is full"
"""How the story begins of an attempt that ended for that."""


class Stopped(Exception):
    """The agent was asked to stop: its jobs go back."""


class InterruptedByUser(Stopped):
    """It was a user who asked, by Ctrl-C."""


class StoppedEarly(Exception):
    """A tuning scheduler wants no more of this trial; says after which epoch."""


class TooLong(Exception):
    """The jobs run for longer than their time limit."""


class OnlyFails(Exception):
    """All that the agent tries fails, while others succeed; says so in words."""


class DeviceLost(Exception):
    """The device computes nothing any more in this process, or its memory is taken for good; says why."""


class LeaseGone(Exception):
    """The agent's jobs belong to somebody else now: whatever it has is discarded."""


def failure_class(error: Exception) -> FailureClass:
    """The class that an attempt ends in after this error.

    Memory is the device's (torch.OutOfMemoryError) and the machine's: Python and numpy raise a MemoryError,
    torch a RuntimeError that only its text tells from others. The kernel's OOM killer raises nothing: that
    death is seen by the supervisor (`orchestrator.supervisor`).
    """
    torch = sys.modules.get("torch")  # what was never imported has raised nothing
    if torch is not None and any(isinstance(one, torch.OutOfMemoryError) for one in chain_of(error)):
        return FailureClass.MEMORY  # whatever its clearing up ran into, such as a recording that ended half-way
    match error:
        case InterruptedByUser():
            return FailureClass.INTERRUPTED
        case Stopped():
            return FailureClass.PREEMPTED
        case StoppedEarly():
            return FailureClass.STOPPED
        case TooLong():
            return FailureClass.TIMEOUT
        case InputError():
            return FailureClass.INPUT
        case MemoryError():
            return FailureClass.MEMORY
        case RuntimeError() if CPU_ALLOCATOR in str(error):
            return FailureClass.MEMORY
    return FailureClass.PREEMPTED if is_disk_full(error) else FailureClass.CRASH


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from or was raised in the handling of."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def kind(error: Exception) -> str:
    """Within its class, what like errors have in common: a crash's type. The other classes say all by themselves."""
    return type(error).__qualname__ if failure_class(error) is FailureClass.CRASH else ""


def is_disk_full(error: Exception) -> bool:
    """Whether the disk of the home or of the registry is full, or its quota used up."""
    return isinstance(error, RegistryFull) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )


def story(error: Exception) -> str:
    """What an attempt keeps of the error: a sentence where we know the cause, else the traceback."""
    match error:
        case Stopped():
            return ""
        case StoppedEarly() | TooLong() | InputError():
            return str(error)
    return f"{DISK_FULL}: {error}" if is_disk_full(error) else "".join(traceback.format_exception(error))
