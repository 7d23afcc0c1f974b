"""What `--allow-actions` adds: pause, resume, retry, cancel, each said before it is done.

An act is first asked for, and answered by what it would do. It is done when it is asked for again with these very
words: where something has changed in between, they are others, and are shown instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Counts, Sweep
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.giving_up import withdraw, without_file
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.words import counted

PAUSED = "paused in the browser"


class Actions:
    """The acts on the sweeps of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def act(self, name: str, title: str, agreed: str) -> dict[str, Any]:
        """What the act would do, or what it has done if `agreed` says the same. Raises InputError."""
        if name not in ACTS:
            raise InputError(f"there is no act {name!r}", place="act", allowed=nearest(name, ACTS))
        preview, do = ACTS[name]
        with Registry.open(self._home.registry) as registry:
            sweep = registry.catalogue.find_sweep(title)
            words = preview(sweep, registry.catalogue.counts(sweep.id))
            if words != agreed:
                return {"would": words}
            return {"done": do(self._home, registry, sweep)}


def _would_pause(sweep: Sweep, counts: Counts) -> str:
    _check(sweep, sweep.state is SweepState.ACTIVE, "only an active sweep is paused")
    waiting = counted(counts.queued, "waiting job is", "waiting jobs are")
    return f"Pause {sweep.title}: {waiting} claimed no more; the {counts.running} running ones go on."


def _pause(home: Home, registry: Registry, sweep: Sweep) -> str:
    registry.sweeps.pause(sweep.id, PAUSED)
    return f"{sweep.title} is paused"


def _would_resume(sweep: Sweep, counts: Counts) -> str:
    _check(sweep, sweep.state is not SweepState.ACTIVE and not sweep.is_tuning, "only a paused or cancelled sweep is")
    waiting = counted(counts.queued + counts.cancelled, "job", "jobs")
    return f"Let {sweep.title} go on: agents at work may claim its {waiting}. This starts no agent."


def _resume(home: Home, registry: Registry, sweep: Sweep) -> str:
    registry.sweeps.reactivate(sweep.id)
    return f"{sweep.title} is active; if no agent works, start some with: qsweep resume {sweep.title}"


def _would_retry(sweep: Sweep, counts: Counts) -> str:
    _check(sweep, counts.failed > 0, "no job of it has failed")
    return f"Queue {counted(counts.failed, 'failed job')} of {sweep.title} again, with fresh budgets."


def _retry(home: Home, registry: Registry, sweep: Sweep) -> str:
    gone = without_file(home, registry, sweep, State.FAILED)
    done = registry.sweeps.retry(sweep.id, State.FAILED, gone=gone)
    return f"{counted(done.queued, 'job')} queued again"


def _would_cancel(sweep: Sweep, counts: Counts) -> str:
    _check(sweep, sweep.state is not SweepState.CANCELLED and counts.open > 0, "nothing of it waits or runs")
    waiting = counted(counts.queued, "waiting job is", "waiting jobs are")
    running = counted(counts.running, "running one is", "running ones are")
    return f"Cancel {sweep.title}: {waiting} withdrawn, {running} asked to stop, unless another sweep wants them."


def _cancel(home: Home, registry: Registry, sweep: Sweep) -> str:
    done, problems = withdraw(home, registry, sweep)
    words = f"{counted(done.queued, 'queued job')} cancelled, {counted(done.running, 'running one')} asked to stop"
    return "; ".join([words, *problems])


def _check(sweep: Sweep, holds: bool, words: str) -> None:
    if not holds:
        raise InputError(words, place=sweep.title)


ACTS: dict[str, tuple[Callable[[Sweep, Counts], str], Callable[[Home, Registry, Sweep], str]]] = {
    "pause": (_would_pause, _pause),
    "resume": (_would_resume, _resume),
    "retry": (_would_retry, _retry),
    "cancel": (_would_cancel, _cancel),
}
"""What may be done: what is said of it before, and how it is done."""
