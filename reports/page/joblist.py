"""The jobs that the page carries, so that a number can lead to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qsweep.db.schema import ROW_KINDS, own_settings
from qsweep.reports.evidence import Evidence, with_arguments
from qsweep.reports.frames import texts_of
from qsweep.reports.returned import Returned, returned_by
from qsweep.reports.source import Source
from qsweep.sweeps.kinds import CALL, KINDS, TRAIN, Kind
from qsweep.sweeps.training import Training

MOST = 10_000
"""Jobs of a sweep of which a page carries all; of more, about as many, a random sample."""
LEAST = 500
"""Jobs of a kind of which all are carried, whatever other kinds there are."""
DIGITS = 6
RESULTS = {
    "runs": (
        ("generalization_gap", "gen. gap"),
        ("train_loss", "train loss"),
        ("test_loss", "test loss"),
        ("train_accuracy", "train acc. (%)"),
        ("test_accuracy", "test acc. (%)"),
        ("chosen_epoch", "epoch"),
        ("weight_norm", "‖w‖₂"),
        ("seconds", "seconds"),
    ),
    "measures": (
        ("value_init", "init"),
        ("value_orig", "orig"),
        ("radius", "radius"),
        ("flatness", "1/radius²"),
        ("reached", "displacement"),
        ("seconds", "seconds"),
    ),
    "distortions": (
        ("generalization_gap", "gen. gap"),
        ("corrupted_loss", "loss"),
        ("corrupted_accuracy", "acc. (%)"),
        ("clean_loss", "clean loss"),
        ("train_loss", "train loss"),
        ("seconds", "seconds"),
    ),
}
"""Results of a job that its list shows, by the kind of its rows."""
PERCENT = ("train_accuracy", "test_accuracy", "corrupted_accuracy")
"""Shares that are shown in percent."""
STATES = ("state", "attempt")
FLAGS = ("diverged", "saturated")
"""What a result may be marked by."""


@dataclass
class JobList:
    """The jobs that the page carries by kind, and the sets of them that numbers lead to.

    Of a set that is not carried whole the page has `{"rows": …, "of": how many there are}`.
    """

    ids: dict[str, list[str]]
    content: dict[str, Any]
    drawn: str = TRAIN.name
    """The kind of the jobs that dots of charts stand for."""
    sets: list[list[int] | dict[str, Any]] = field(default_factory=list)
    _rows: dict[str, dict[str, int]] = field(default_factory=dict)
    _known: dict[tuple[str, int, tuple[int, ...]], int] = field(default_factory=dict)

    def row(self, kind: str, job: str) -> int | None:
        """The number of a job in the list of its kind; None if the page does not carry it."""
        if kind not in self._rows:
            self._rows[kind] = {identity: row for row, identity in enumerate(self.ids[kind])}
        return self._rows[kind].get(job)

    def kind_of(self, jobs: Sequence[str]) -> str:
        """The kind of jobs that are all of one kind."""
        found = (kind for kind in self.ids if any(self.row(kind, job) is not None for job in jobs))
        return next(found, self.drawn)

    def rows(self, kind: str, jobs: Iterable[str]) -> list[int | None] | None:
        """The numbers of these jobs, None for one that is not carried; None if no jobs of that kind are."""
        return [self.row(kind, job) for job in jobs] if self.ids[kind] else None

    def add(self, kind: str, jobs: Iterable[str]) -> int | None:
        """The key of the set of these jobs; None if there is nothing to lead to."""
        asked = list(jobs)
        rows = sorted(row for row in self.rows(kind, asked) or [] if row is not None)
        if not rows:
            return None
        whole = len(rows) if len(rows) == len(asked) else len(set(asked))
        key = (kind, whole, tuple(rows))
        if key not in self._known:
            self._known[key] = len(self.sets)
            runs = runs_of(rows)
            self.sets.append(runs if len(rows) == len(asked) else {"rows": runs, "of": whole})
        return self._known[key]


def runs_of(rows: Sequence[int]) -> list[int]:
    """Ascending numbers as [gap, length, gap, length, …], each gap counted from the end of the run before."""
    found: list[int] = []
    following = 0
    for row in rows:
        if found and row == following:
            found[-1] += 1
        else:
            found += [row - following, 1]
        following = row + 1
    return found


def list_jobs(evidence: Evidence) -> JobList:
    """The sweep's jobs, or a sample of them, with their settings, states and results, in the order of registration."""
    ids: dict[str, list[str]] = {}
    content: dict[str, Any] = {}
    share = min(MOST / max(len(evidence.jobs), 1), 1.0)
    for kind, results in evidence.results.items():
        whole = evidence.jobs[evidence.jobs["kind"] == kind].reset_index(drop=True)
        jobs = _sample(whole, share)
        ids[kind] = jobs["job"].tolist()
        own = evidence.returned if KINDS[kind].of_user else None
        columns = _columns(kind, jobs, results) if own is None else _columns_of_runs(own, jobs, results)
        content[kind] = {"ids": ids[kind], "columns": columns}
        content[kind] |= {} if len(jobs) == len(whole) else {"of": len(whole)}
    return JobList(ids=ids, content=content, drawn=(TRAIN if evidence.returned is None else CALL).name)


def _sample(jobs: pd.DataFrame, share: float) -> pd.DataFrame:
    """About this share of jobs of one kind: those with the smallest identities, as of dots (`reports.charts.sampling`),
    so that most dots which are drawn lead to a job."""
    count = max(math.floor(share * len(jobs)), min(LEAST, len(jobs)))
    if count == len(jobs):
        return jobs
    return jobs.loc[jobs["job"].sort_values().index[:count]].sort_index().reset_index(drop=True)


def _columns_of_runs(own: Returned, jobs: pd.DataFrame, results: pd.DataFrame) -> list[dict[str, Any]]:
    """Of runs of the user's code: the settings that vary, what they returned, and their states."""
    settings = own.settings.reindex(jobs["job"])
    columns = [_coded(name, name, settings[name], setting=True) for name in map(str, settings)]
    numbers = own.numbers.reindex(jobs["job"])
    columns += [_numbers(name, name, numbers[name]) for name in map(str, numbers)]
    found = results.set_index("job").reindex(jobs["job"])
    columns.append(_numbers("seconds", "seconds", found["seconds"]))
    columns += [_coded(name, name, jobs[name]) for name in STATES]
    if found["diverged"].eq(other=True).any():
        columns.append(_coded("diverged", "diverged", found["diverged"].map({True: "diverged"})))
    return columns


def read_jobs(source: Source, most: int) -> dict[str, Any]:
    """The sweep's jobs so far, by kind, the first `most` of each: what `list_jobs` makes of a report's evidence."""
    everything, content = source.frame("jobs"), {}
    if arguments := sorted(source.spec.argument_names):
        everything = with_arguments(everything, arguments)
    for kind in everything["kind"].unique():
        jobs = everything[everything["kind"] == kind].iloc[:most].reset_index(drop=True)
        if kind == CALL.name:
            results = source.frame(CALL.rows[0], ["job", "seconds", "diverged"])
            columns = _columns_of_runs(returned_by(source), jobs, results)
        else:
            names = ["job", *(name for name, _ in _shown(KINDS[kind]))]
            names += [one for one in FLAGS if one in ROW_KINDS[KINDS[kind].rows[0]].columns.names]
            columns = _columns(kind, jobs, source.frame(KINDS[kind].rows[0], names))
        whole = int((everything["kind"] == kind).sum())
        content[str(kind)] = {"ids": jobs["job"].tolist(), "columns": columns, "of": whole}
    return content


def _columns(kind: str, jobs: pd.DataFrame, results: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [_coded("parent", "model", jobs["parent"].str[:12])] if KINDS[kind].parents and len(jobs) else []
    columns += [_coded(name, name.replace("_", " "), jobs[name], setting=True) for name in varying(jobs, kind)]
    found = results.set_index("job").reindex(jobs["job"])
    columns += [_numbers(name, label, found[name]) for name, label in _shown(KINDS[kind])]
    columns += [_coded(name, name, jobs[name]) for name in STATES]
    for flag in FLAGS:
        if flag in found and found[flag].eq(other=True).any():
            columns.append(_coded(flag, flag, found[flag].map({True: flag})))
    return columns


def _shown(kind: Kind) -> Sequence[tuple[str, str]]:
    """The results that the list of such jobs shows, with their labels."""
    rows = kind.rows[0]
    return RESULTS.get(rows) or [(name, name.replace("_", " ")) for name in ROW_KINDS[rows].numbers]


def varying(jobs: pd.DataFrame, kind: str) -> list[str]:
    """The settings in which those jobs of a kind differ that have them; of a measure its own ones."""
    known = {field.name for field in own_settings(KINDS[kind])} or Training.known()
    names = [name for name in jobs.columns if name in known]
    return [name for name in names if len(set(texts_of(jobs[name].dropna()))) > 1]


def _coded(name: str, label: str, values: pd.Series, *, setting: bool = False) -> dict[str, Any]:
    """A column of few distinct values: each once, and their numbers."""
    texts = [_plain(value) for value in values]
    distinct = sorted({one for one in texts if one is not None}, key=lambda one: (isinstance(one, str), one))
    codes = {one: code for code, one in enumerate(distinct)}
    missing = len(distinct)
    coded = [missing if one is None else codes[one] for one in texts]
    values_of: list[Any] = [*distinct, None] if missing in coded else list(distinct)
    return {"name": name, "label": label, "setting": setting, "values": values_of, "codes": coded}


def _numbers(name: str, label: str, values: pd.Series) -> dict[str, Any]:
    numbers = [rounded(value) for value in values]
    factor = 100 if name in PERCENT else 1
    return {"name": name, "label": label, "factor": factor, "decimals": _decimals(numbers, factor), "numbers": numbers}


def _decimals(numbers: Sequence[float | int | None], factor: int) -> int:
    """So many that a column's numbers stand below each other, with four significant digits of the largest."""
    sizes = [abs(factor * one) for one in numbers if one is not None]
    if not sizes or all(isinstance(one, int) for one in numbers if one is not None):
        return 0
    return 2 if factor == 100 else max(0, min(6, 3 - math.floor(math.log10(max(*sizes, 1e-9, 1e-9)))))


def rounded(value: Any) -> float | int | None:
    """A number as the page carries it: DIGITS significant digits; None where it is missing."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    short = float(f"{float(value):.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _plain(value: Any) -> str | int | float | None:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return rounded(value)
    return value if isinstance(value, int) else str(value)
