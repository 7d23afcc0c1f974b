"""Everything that a report or a figure is made from, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from qsweep.db.losses import Lost
from qsweep.db.rows import Sweep
from qsweep.reports.analysis.analysis import Analysis, Models, Options, analyze, finite_runs, group_models
from qsweep.reports.answers import make_tables
from qsweep.reports.source import Source
from qsweep.reports.table import Table
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import DISTORTION, FLATNESS, KINDS, SYNTHESIS, TRAIN
from qsweep.sweeps.modules import ARGUMENTS
from qsweep.sweeps.spec import Spec

VIEWS = ("jobs", "attempts")
"""What is read of the registry, at the moment of the results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """One sweep's rows as frames, and what follows from them."""

    sweep: Sweep
    spec: Spec
    jobs: pd.DataFrame
    attempts: pd.DataFrame
    results: Mapping[str, pd.DataFrame]
    """The one row of each done job, by the kind of the job."""
    epochs: pd.DataFrame
    layers: pd.DataFrame
    synthesis_losses: pd.DataFrame
    synthetic_images: pd.DataFrame
    """Those with their pixels alone."""
    tables: tuple[Table, ...]
    options: Options
    lost: tuple[Lost, ...] = ()
    """What could not be read, of jobs that count."""

    @property
    def title(self) -> str:
        return self.sweep.title

    @property
    def runs(self) -> pd.DataFrame:
        return self.results[TRAIN.name]

    @property
    def measures(self) -> pd.DataFrame:
        return self.results[FLATNESS.name]

    @property
    def distortions(self) -> pd.DataFrame:
        return self.results[DISTORTION.name]

    @property
    def syntheses(self) -> pd.DataFrame:
        return self.results[SYNTHESIS.name]

    @cached_property
    def models(self) -> list[Models]:
        """The finite models, by data set and family of networks."""
        return list(group_models(self.spec, finite_runs(self.runs)))

    @cached_property
    def analysis(self) -> Analysis:
        return analyze(self.title, self.spec, self.runs, self.measures, self.layers, self.options, groups=self.models)


def gather(source: Source, options: Options | None = None) -> Evidence:
    """Read what there is so far. Raises InputError for a sweep that trains nothing that qsweep knows of."""
    if source.spec.calls:
        raise InputError(
            f"{source.title} calls a function or a command of yours, and this is of trainings",
            allowed="answered: qsweep tables, qsweep query, qsweep jobs, qsweep export",
        )
    arguments = sorted(source.spec.argument_names)
    return Evidence(
        sweep=source.sweep,
        spec=source.spec,
        jobs=with_arguments(source.frame("jobs"), arguments),
        attempts=source.frame("attempts"),
        results={
            name: with_arguments(source.frame(kind.rows[0]).drop(columns=["trace"], errors="ignore"), arguments)
            for name, kind in KINDS.items()
        },
        epochs=source.frame("epochs", ["job", "epoch", "train_loss", "train_accuracy"]),
        layers=source.frame("layers", ["job", "layer", "index", "bits", "step_size"]),
        synthesis_losses=source.frame("synthesis_losses"),
        synthetic_images=source.frame("synthetic_images").dropna(subset=["pixels"]),
        tables=tuple(make_tables(source)),
        options=options or Options(),
        lost=tuple(source.lost),
    )


def with_arguments(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows with the arguments of modules of the user as columns: they are settings of the sweep like any other."""
    if not names or ARGUMENTS not in rows:
        return rows
    given = [json.loads(one) if isinstance(one, str) else {} for one in rows[ARGUMENTS]]
    found: dict[str, pd.Series[Any]] = {}
    for name in names:
        values = pd.Series(
            [tuple(v) if isinstance(v := one.get(name), list) else v for one in given], rows.index, object
        )
        found[name] = (values.where(values.notna(), rows[name]) if name in rows else values).infer_objects()
    return rows.assign(**found)
