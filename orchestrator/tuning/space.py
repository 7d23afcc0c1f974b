"""Which jobs of a sweep a tuning run tries."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Protocol

from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec
from qsweep.sweeps.tuning import Search, Tuning


class Suggests(Protocol):
    """A trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def drawn_jobs(jobs: Sequence[Job], tuning: Tuning) -> list[Job]:
    """The jobs that a grid or a random search tries, in order."""
    if tuning.search is Search.GRID:
        return list(jobs[: tuning.samples])
    count = min(tuning.samples_or_default, len(jobs))
    return random.Random(tuning.seed).sample(list(jobs), count)


class Space:
    """The jobs as Optuna sees them: axis after axis, each with the values that are left after the choices before.

    A parameter's name holds its choices, so that an axis with other values elsewhere (a learning rate under
    another optimizer) is another parameter. Called with a trial, it answers the job that the trial chose.
    """

    def __init__(self, spec: Spec, jobs: Sequence[Job]) -> None:
        self._axes = [axis.name for axis in spec.axes]
        self._jobs = list(jobs)

    def __call__(self, trial: Suggests) -> dict[str, str]:
        left = self._jobs
        for axis in self._axes:
            name, choices = _parameter(axis, left)
            if len(choices) > 1:
                chosen = trial.suggest_categorical(name, choices)
                left = [job for job in left if _value(job, axis) == chosen]
        return {"job": left[0].to_json()}

    def parameters(self, job: Job) -> dict[str, str]:
        """The choices that lead to this job."""
        found, left = {}, self._jobs
        for axis in self._axes:
            name, choices = _parameter(axis, left)
            if len(choices) > 1:
                found[name] = _value(job, axis)
                left = [one for one in left if _value(one, axis) == found[name]]
        return found


def _parameter(axis: str, jobs: Sequence[Job]) -> tuple[str, list[str]]:
    choices = list(dict.fromkeys(_value(job, axis) for job in jobs))
    return f"{axis} of {', '.join(choices)}", choices


def _value(job: Job, axis: str) -> str:
    return json.dumps(job.settings().get(axis))
