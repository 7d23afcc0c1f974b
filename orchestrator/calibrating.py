"""Measuring the forms and slot counts of a sweep's shapes on this machine, and recording the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Calibration
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.machine import Machine
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.questions import Measure, Question, WarmUp
from qsweep.sweeps.service import Died, Service
from qsweep.workers.forms import forms_of

SLOTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Slot counts that are tried, in this order, until more are no faster."""
GAIN = 1.03
"""How much faster a choice must be to be preferred to one with fewer slots."""
EPOCHS = 100_000
"""A measured training never ends by itself."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One measured candidate. Without a rate it could not run: for its `problem`, or it did not fit into memory."""

    shape: str
    form: str
    slots: int
    rate: float
    """Model-steps a second of the whole machine."""
    seconds: float
    """Of one step of one agent."""
    peak: int
    """Bytes of one agent."""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The calibration of a shape on this machine: what is recorded, and the trials behind it."""

    shape: str
    recorded: Calibration
    trials: tuple[Trial, ...]
    kept: bool
    """Whether it stood there before and was not measured again."""


def training_shapes(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """The trainings by shape: measures have no form to choose."""
    shapes: dict[str, list[Job]] = {}
    for job in jobs:
        if job.kind.is_calibrated:
            shapes.setdefault(job.shape, []).append(job)
    return shapes


def calibrate(
    home: Home,
    registry: Registry,
    machine: Machine,
    jobs: Sequence[Job],
    *,
    agents: int,
    seconds: float,
    again: bool,
    tell: Callable[[Trial], None],
) -> Iterator[Choice]:
    """Measure each shape that has no calibration here yet (or all, `again`), and record the fastest choice.

    Raises InputError, before anything is measured, if `again` would change a calibration while jobs are running.
    """
    if again:
        registry.calibrations.check_idle()
    for shape, some in training_shapes(jobs).items():
        key = {"shape": shape, "device": machine.device, "build": machine.torch}
        standing = registry.calibrations.find(**key)
        if standing is not None and not again:
            yield Choice(shape=shape, recorded=standing, trials=(), kept=True)
            continue
        room = machine.memory if machine.gpus else machine.memory / agents
        bench = Bench(home=home, agents=agents, gpus=machine.gpus, seconds=seconds, room=room)
        trials = tuple(bench.trials(shape, some, machine.device, tell))
        best = choose(trials)
        found = Calibration(slots=best.slots, form=best.form, seconds=best.seconds, peak=best.peak)
        yield Choice(shape=shape, recorded=registry.calibrations.replace(**key, found=found), trials=trials, kept=False)


def choose(trials: Sequence[Trial]) -> Trial:
    """The fastest; of those that are about as fast, the one with the fewest slots."""
    fastest = max((trial.rate for trial in trials), default=0.0)
    if not fastest:
        problem = next((trial.problem for trial in trials if trial.problem), "not even one model fits into memory")
        raise QsweepError(f"no form of this shape could be measured: {problem}")
    near = [trial for trial in trials if trial.rate * GAIN >= fastest]
    return min(near, key=lambda trial: (trial.slots, -trial.rate))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Runs candidates as agents run them: one process per core or GPU, all at once."""

    home: Home
    agents: int
    gpus: int
    seconds: float
    room: float
    """Bytes that one agent may take; 0 if unknown."""

    def trials(self, shape: str, jobs: Sequence[Job], device: str, tell: Callable[[Trial], None]) -> Iterator[Trial]:
        """Every form with more and more slots, until more are no faster, would stay empty, or don't fit."""
        for form in forms_of(jobs[0].training.recipe.precision, device, jobs[0].training.model):
            best: Trial | None = None
            for slots in SLOTS:
                if slots > len(jobs) or (best and self.room and best.peak * slots / best.slots > 2 * self.room):
                    break
                trial = self.measure(shape, jobs, form.value, slots)
                tell(trial)
                yield trial
                if not trial.rate or (best is not None and trial.rate < GAIN * best.rate):
                    break
                best = trial

    def measure(self, shape: str, jobs: Sequence[Job], form: str, slots: int) -> Trial:
        """One candidate on all agents at the same time."""
        warm_up = WarmUp(
            data=str(self.home.data),
            trainings=[job.training.settings() | {"epochs": EPOCHS} for job in jobs[:slots]],
            slots=slots,
            form=form,
            user_code=str(self.home.user_code),
        )
        with ExitStack() as stack:
            benches = [stack.enter_context(self._start(number)) for number in range(self.agents)]
            found = _asked_together(benches, warm_up)
            if not any(found):
                found = _asked_together(benches, Measure(seconds=self.seconds))
        times = [one["seconds"] for one in found if one.get("seconds")]
        whole = len(times) == len(found)
        return Trial(
            shape=shape,
            form=form,
            slots=slots,
            rate=sum(slots / time for time in times) if whole else 0.0,
            seconds=sum(times) / len(times) if whole else 0.0,
            peak=max((one.get("peak", 0) for one in found), default=0),
            problem=next((one["unavailable"] for one in found if one.get("unavailable")), ""),
        )

    def _start(self, number: int) -> Service:
        gpu = number % self.gpus if self.gpus else None
        return Service(worker_environment(self.home, threads=1, gpu=gpu), failing="a measurement")


def _asked_together(benches: Sequence[Service], question: Question) -> list[dict[str, Any]]:
    """What each answers to a question that all are asked at the same time. One that was killed did not fit either."""
    for bench in benches:
        bench.send(question)
    found = []
    for bench in benches:
        try:
            found.append(bench.receive())
        except Died as died:
            if died.code > 0:
                raise
            found.append({"too_large": True})
    return found
