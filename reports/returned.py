"""What runs of a user's functions or commands say: what they returned and logged, over the settings that vary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qsweep.reports.quantization import setting_text
from qsweep.reports.series import POINTS, spread_of
from qsweep.reports.source import Source
from qsweep.reports.widening import returned_numbers, wide_rows
from qsweep.sweeps.calls import SEED
from qsweep.sweeps.settings import varying
from qsweep.sweeps.user_code import CODE

MOST_NUMBERS = 8
"""Returned, and logged, numbers that are drawn and analyzed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Varied:
    """A setting in which the runs differ: its values in order, and which of them each run has, by job."""

    name: str
    values: tuple[Any, ...]
    places: pd.Series

    @property
    def labels(self) -> tuple[str, ...]:
        """What its values are called."""
        return tuple(map(text_of, self.values))

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers."""
        return all(_is_number(value) for value in self.values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Returned:
    """The runs of one sweep that are done. `numbers` has a row a job and a column a returned number (NaN where a run
    has none, or one that is not finite); `logged` the columns job, step, name and value."""

    noun: str
    """What is called: the function's name, or the command's first word."""
    expected: int
    axes: tuple[Varied, ...]
    """What varies, but for the seed."""
    settings: pd.DataFrame
    """What varies, seed included, of every job that the sweep spans."""
    numbers: pd.DataFrame
    logged: pd.DataFrame
    diverged: int

    @property
    def curves(self) -> tuple[str, ...]:
        """The logged numbers that are drawn: those of several steps."""
        steps = self.logged.groupby("name", sort=False)["step"].nunique()
        return tuple(map(str, steps.index[steps > 1]))[:MOST_NUMBERS]


def returned_by(source: Source) -> Returned:
    """What the runs of a sweep have returned and logged so far."""
    jobs = source.jobs
    settings = {job.identity: job.settings() for job in jobs}
    names = [name for name in varying(list(settings.values())) if not name.endswith(CODE)]
    rows = {str(row["job"]): row for row in wide_rows(source)}
    shown = returned_numbers(source)[:MOST_NUMBERS]
    done = pd.Index(list(rows), dtype=object, name="job")
    numbers = pd.DataFrame(
        {name: [_finite(row.get(name)) for row in rows.values()] for name in shown}, index=done, dtype=np.float64
    )
    logged = source.frame("logged", ["job", "step", "name", "value"])
    first = next(iter(jobs), None)
    return Returned(
        noun="" if first is None or first.call is None else first.call.name,
        expected=len(settings),
        axes=tuple(_varied(name, settings, done) for name in names if name != SEED),
        settings=pd.DataFrame(
            {name: pd.Series([row.get(name) for row in settings.values()], list(settings), object) for name in names},
            index=pd.Index(list(settings), dtype=object),
        ),
        numbers=numbers,
        logged=logged[np.isfinite(logged["value"]) & logged["job"].isin(done)],  # a lost row leaves what it logged
        diverged=sum(bool(row["diverged"]) for row in rows.values()),
    )


def curves_of(found: Returned, name: str, axis: Varied | None) -> pd.DataFrame:
    """Quantiles of a logged number at each step, over the runs with one value of the axis: `place`, `step`, `low`,
    `median`, `high`. Without an axis, over all runs, in place 0."""
    rows = found.logged[found.logged["name"] == name]
    steps = np.unique(rows["step"])
    if len(steps) > POINTS:
        steps = np.unique(steps[np.linspace(0, len(steps) - 1, POINTS).round().astype(int)])
        rows = rows[rows["step"].isin(steps)]
    place = pd.Series(0, rows.index) if axis is None else rows["job"].map(axis.places)
    grouped = rows.groupby([place.rename("place"), "step"], sort=True)["value"]
    return spread_of(grouped).reset_index().dropna()


def text_of(value: Any) -> str:
    """A value of a setting on an axis; one that a run does not have is a dash."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else setting_text(value)


def _varied(name: str, settings: Mapping[str, Mapping[str, Any]], done: pd.Index) -> Varied:
    values: dict[Any, Any] = {_key(row.get(name)): row.get(name) for row in settings.values()}
    order = sorted(values, key=lambda one: values[one]) if all(map(_is_number, values.values())) else list(values)
    place = {one: number for number, one in enumerate(order)}
    places = [place[_key(settings[job].get(name))] if job in settings else None for job in done]
    return Varied(name=name, values=tuple(values[one] for one in order), places=pd.Series(places, done, dtype=object))


def _key(value: Any) -> tuple[bool, Any]:
    """1 and 1.0 are one value, and true is another."""
    return isinstance(value, bool), value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else np.nan
