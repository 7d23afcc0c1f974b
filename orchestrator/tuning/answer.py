"""What a tuning run answers: the best trials, and the best one of each precision. Test data is no part of it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsweep.db.home import Home
from qsweep.db.losses import read_sound, told
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import JobRow, Sweep
from qsweep.db.states import State
from qsweep.orchestrator.layout import counted
from qsweep.reports.demands import spec_of
from qsweep.reports.quantization import NAMED_BY, Quantization, quantization_of
from qsweep.reports.sheet import Sheet, headings
from qsweep.sweeps.errors import LostResults
from qsweep.sweeps.settings import Setting, varying
from qsweep.sweeps.tuning import METRICS, Tuning

SHOWN = 10
"""Trials in the table of the best."""
COLUMNS = tuple(METRICS)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial: what it set, how it ended, its metrics (of the kept model if it is done, else of its last epoch)."""

    job: str
    quantization: Quantization | None
    """None of a call of the user's code."""
    settings: dict[str, Setting]
    done: bool
    ending: str
    epoch: int
    metrics: dict[str, float | None]

    def rank(self, tuning: Tuning) -> tuple[bool, float]:
        """Whole trials come first, then the better ones."""
        value = self.metrics.get(tuning.metric)
        if value is None or not math.isfinite(value):
            return not self.done, math.inf
        return not self.done, value if tuning.better(0.0, 1.0) else -value


def read_trials(home: Home, registry: Registry, sweep: Sweep) -> list[Tried]:
    """Every trial that got anywhere, the best first."""
    spec = spec_of(sweep)
    assert spec.tuning is not None
    rows = registry.catalogue.jobs(sweep.id)
    names = (spec.tuning.metric,) if spec.calls else COLUMNS
    runs = {one["job"]: one for one in (_read_calls if spec.calls else _read_runs)(home, registry, sweep)}
    reports = registry.trials.reports([row.id for row in rows if row.state is not State.DONE])
    axes = [axis.name for axis in spec.axes]
    found = []
    for row in rows:
        if row.identity in runs:
            found.append(_tried(row, runs[row.identity], axes, names))
        elif row.id in reports:
            found.append(_tried(row, reports[row.id][-1], axes, names))
    return sorted(found, key=lambda one: one.rank(spec.tuning) if spec.tuning else (False, 0.0))


def trial_sheets(sweep: Sweep, trials: Sequence[Tried]) -> list[Sheet]:
    """The best trials; and the best of each precision, where there are several."""
    tuning = spec_of(sweep).tuning
    assert tuning is not None
    best: dict[Quantization, Tried] = {}
    for one in trials:
        if one.quantization is not None:
            best.setdefault(one.quantization, one)
    stopped = sum(not one.done for one in trials)
    about = f"{sweep.title}, {counted(len(trials), 'trial')}, {stopped} not trained to the end"
    sheets = [_sheet(trials[:SHOWN], f"Best trials by {tuning.metric}", about)]
    if len(best) > 1:
        chosen = [best[called] for called in sorted(best)]
        sheets.append(_sheet(chosen, f"Best trial of each precision by {tuning.metric}"))
    return sheets


def _read_runs(home: Home, registry: Registry, sweep: Sweep) -> list[dict[str, Any]]:
    columns = ["job", "chosen_epoch", *COLUMNS]
    table, lost = read_sound(ResultStore(home.store), "runs", registry.catalogue.pointers(sweep.id), columns)
    if remark := told(lost, sweep.title):
        warnings.warn(remark, LostResults, stacklevel=2)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _read_calls(home: Home, registry: Registry, sweep: Sweep) -> list[dict[str, Any]]:
    """What each call logged last, and returned."""
    store, pointers = ResultStore(home.store), registry.catalogue.pointers(sweep.id)
    returned, lost = read_sound(store, "returned", pointers, ["job", "returned"])
    logged, more = read_sound(store, "logged", pointers, ["job", "name", "value"])
    if remark := told([*lost, *more], sweep.title):
        warnings.warn(remark, LostResults, stacklevel=2)
    last: dict[str, dict[str, Any]] = {}
    for one in logged.to_pylist():
        last.setdefault(one["job"], {})[one["name"]] = one["value"]
    return [
        {**last.get(one["job"], {}), **json.loads(one["returned"]), "job": one["job"]} for one in returned.to_pylist()
    ]


def _tried(row: JobRow, told: dict[str, Any], axes: Sequence[str], names: Sequence[str]) -> Tried:
    settings = row.job.settings()
    done = row.state is State.DONE
    call = row.job.call is not None
    epoch = int(told.get("epoch", 0)) if call or not done else row.job.training.recipe.epochs
    at = f"step {told.get('step')}" if call else f"epoch {epoch}"
    ending = {State.DONE: "done", State.CANCELLED: f"stopped at {at}"}.get(row.state, row.state.value)
    return Tried(
        job=row.identity,
        quantization=None if call else quantization_of(settings),
        settings={name: settings[name] for name in axes if name in settings},
        done=done,
        ending=ending,
        epoch=epoch,
        metrics={name: told.get(name) for name in names},
    )


def _sheet(trials: Sequence[Tried], title: str, subtitle: str = "") -> Sheet:
    names = [name for name in varying([one.settings for one in trials]) if name not in NAMED_BY]
    known = dict.fromkeys(name for one in trials for name in one.metrics)
    shown = [name for name in known if any(one.metrics[name] is not None for one in trials)]
    precision = ["Precision"] * any(one.quantization is not None for one in trials)
    return Sheet(
        headings=headings("Job", *precision, *names, "Ended", *shown, numeric=shown, copied=["Job"]),
        rows=tuple(
            (
                one.job[:12],
                *([str(one.quantization)] if precision else []),
                *(str(one.settings.get(name, "–")) for name in names),
                one.ending,
                *(_number(one.metrics[name]) for name in shown),
            )
            for one in trials
        ),
        title=title,
        subtitle=subtitle,
    )


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"
