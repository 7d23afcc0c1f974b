"""One trial: a Ray actor that lets an agent train one job, and tells Tune of each epoch.

What is known of a job already (from an earlier tuning run, or from the results of another sweep) is told again
without training: only where the scheduler decides, and what came last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from ray import tune

from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore
from qsweep.db.rows import Committed, JobRow
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.backends.base import Fleet
from qsweep.orchestrator.backends.local import worker_command
from qsweep.orchestrator.children import worker_environment
from qsweep.sweeps import processes
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.tuning import Tuning

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds between two looks at a job that another agent runs."""
FRUITLESS = 5
"""Times in a row that an agent may hand the job back without an epoch more."""


class TrialFailed(QsweepError):
    """A trial can't go on."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What every trial of a tuning run has to know."""

    fleet: Fleet
    sweep: int
    tuning: Tuning


class DirectedProcess:
    """A supervised agent that takes orders from this process, and hands back what it has when this one dies."""

    def __init__(self, fleet: Fleet) -> None:
        log = fleet.home.logs / "agents"
        log.mkdir(parents=True, exist_ok=True)
        with (log / "supervisors.log").open("ab") as errors:
            self._process = processes.start(
                [*worker_command(fleet), "--directed"],
                env=worker_environment(fleet.home, threads=1) | {"QSWEEP_BACKEND": "ray"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def order(self, text: str) -> None:
        """Say something to the agent; one that is dead does not hear it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """The agent's next message; None when it has died, which its supervisor has reported then."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):  # nothing, or half a message
            self._process.wait()
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def leave(self) -> None:
        """Let the agent retire."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)


class Trial(tune.Trainable):
    """The trial of the job that stands in `config["job"]`."""

    _told: int
    """The epoch that Tune heard of last."""
    _known: dict[int, dict[str, Any]]
    """The epochs that are known, by number."""
    _end_at: int
    """The job's last epoch: an earlier one than its recipe says if it diverged."""

    def setup(self, config: dict[str, Any], study: Study | None = None) -> None:
        assert study is not None
        self._study = study
        self._registry = Registry.open(study.fleet.home.registry)
        self._results = ResultStore(study.fleet.home.store)
        self._agent: DirectedProcess | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch that Tune has to hear of."""
        try:
            while (epoch := self._due()) is None:
                self._advance()
        except TrialFailed as error:
            self._failed = True
            return {"epoch": self._told + 1, self._study.tuning.metric: self._study.tuning.worst, "done": True,
                    "problem": str(error)}  # fmt: skip
        self._told = epoch
        return self._report(self._known[epoch]) | {"done": epoch == self._last, "whole": self._end_at in self._known}

    def cleanup(self) -> None:
        self._end()
        if self._agent is not None:
            self._agent.leave()
        self._registry.close()

    def _begin(self, config: dict[str, Any]) -> None:
        job = Job.from_json(config["job"])
        self._registry.sweeps.register(self._study.sweep, [job])
        row = self._registry.catalogue.job(job.identity)
        self._id, self._identity = row.id, job.identity
        self._epochs = self._end_at = epochs_of(job)
        self._last = self._registry.trials.ended_after(self._study.sweep, row.id) or self._epochs
        self._told, self._fruitless = 0, 0
        self._running, self._failed = False, False
        self._known = {one["epoch"]: one for one in self._registry.trials.reports([row.id]).get(row.id, ())}
        if row.state is not State.DONE:
            self._known.pop(self._epochs, None)  # reported, and not published: its agent died between the two
        self._old = self._look(row)

    def _due(self) -> int | None:
        """The next epoch to tell: of those that were known from the start, the last one and those of the rungs."""
        seen = min(self._old, self._last)
        rungs = self._study.tuning.rungs(self._epochs)
        following = sorted(epoch for epoch in self._known if epoch > self._told)
        return next((one for one in following if one >= seen or one in rungs), None)

    def _report(self, row: dict[str, Any]) -> dict[str, Any]:
        metric = self._study.tuning.metric
        value = row.get(metric)
        return {**row, metric: value if value is not None and math.isfinite(value) else self._study.tuning.worst}

    def _look(self, row: JobRow) -> int:
        """Take in the history of a finished job; the last known epoch."""
        if row.state is State.DONE:
            found = self._registry.results.committed_job(row.id)
            try:
                rows = self._history(row.job, found)
            except DamagedResults as error:  # the search goes on without its history
                log.warning("the epochs of job %s are lost: %s", self._identity, error)
                rows = []
            self._known = {one["epoch"]: one for one in rows}
            self._end_at = max(self._known, default=self._epochs)
            self._last = min(self._last, self._end_at)
        return max(self._known, default=0)

    def _history(self, job: Job, pointers: list[Committed]) -> list[dict[str, Any]]:
        """The epochs of a finished training; of a call each step that it logged, and at last what it returned."""
        if job.call is None:
            rows = self._results.read("epochs", pointers).to_pylist()
            return [{name: one[name] for name in REPORTED} for one in rows]
        steps: dict[int, dict[str, Any]] = {}
        for one in self._results.read("logged", pointers).to_pylist():
            steps.setdefault(one["step"], {})[one["name"]] = one["value"]
        (row,) = self._results.read("returned", pointers).to_pylist()
        last = (steps[max(steps)] if steps else {}) | json.loads(row["returned"])
        return [{"epoch": place, **values} for place, values in enumerate((*map(steps.get, sorted(steps)), last), 1)]

    def _advance(self) -> None:
        """Get an epoch further: let the agent go on, or find out what became of the job."""
        if self._running and self._agent is not None:
            self._agent.order("go")
            self._listen()
            return
        row = self._registry.catalogue.job(self._identity)
        if row.state is State.DONE:
            self._look(row)
        elif row.state is State.FAILED:
            raise TrialFailed(f"job {self._identity[:12]} failed: {row.failure_class}")
        elif row.state is State.RUNNING:
            self._registry.agents.take_back_expired()
            time.sleep(WAIT)
        elif self._registry.catalogue.find_sweep(self._study.fleet.title).state is SweepState.CANCELLED:
            raise TrialFailed(f"{self._study.fleet.title} was cancelled")
        else:
            self._start()

    def _start(self) -> None:
        if self._fruitless >= FRUITLESS:
            raise TrialFailed(f"job {self._identity[:12]} comes back without an epoch more, again and again")
        self._fruitless += 1
        self._agent = self._agent or DirectedProcess(self._study.fleet)
        self._agent.order(f"run {self._id}")
        self._listen()

    def _listen(self) -> None:
        assert self._agent is not None
        message = self._agent.answer()
        self._running = message is not None and "epochs" in message
        if message is None:
            self._agent = None
            return
        fresh = {one["epoch"]: one for one in message.get("epochs", ())}
        if fresh.keys() - self._known.keys():
            self._fruitless = 0
        self._known |= fresh

    def _end(self) -> None:
        """The scheduler wants no more of this job, or it is done."""
        if 0 < self._told < self._end_at and self._end_at not in self._known and not self._failed:
            self._registry.trials.end(self._study.sweep, self._id, self._told)
        if self._running and self._agent is not None:
            self._agent.order("stop")
            while self._running:
                self._listen()


def epochs_of(job: Job) -> int:
    """The epochs of a training; how often a call will log nobody knows."""
    return ENDLESS if job.call is not None else job.training.recipe.epochs


ENDLESS = 1 << 20
REPORTED = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
"""Columns of `epochs` that a report has too."""
