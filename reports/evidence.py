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
from qsweep.reports.analysis.claims import Verdict
from qsweep.reports.analysis.explained import Explained, explain
from qsweep.reports.answers import make_tables
from qsweep.reports.returned import Returned, returned_by
from qsweep.reports.source import Source
from qsweep.reports.table import Table
from qsweep.sweeps.kinds import DISTORTION, FLATNESS, KINDS, QUANTIZATION, SYNTHESIS, TRAIN
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
    returned: Returned | None = None
    """What runs of the user's functions or commands say, where the sweep is of these and not of trainings."""

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
    def explained(self) -> tuple[Explained, ...]:
        """What returned numbers go with, where the sweep is of runs."""
        return () if self.returned is None else explain(self.returned)

    @property
    def is_of_paper(self) -> bool:
        """Whether it is about what the papers claim: it declares a table of theirs, or says something of a claim."""
        declared = any(table.declaration.number is not None for table in self.tables)
        return declared or any(claim.verdict is not Verdict.NO_DATA for claim in self.analysis.claims)

    @cached_property
    def models(self) -> list[Models]:
        """The finite models, by data set and family of networks."""
        return list(group_models(self.spec, finite_runs(self.runs)))

    @cached_property
    def analysis(self) -> Analysis:
        return analyze(
            self.title,
            self.spec,
            self.runs,
            self.measures,
            self.layers,
            self.options,
            groups=self.models,
            quantizations=self.results[QUANTIZATION.name],
        )


def gather(source: Source, options: Options | None = None) -> Evidence:
    """Read what there is so far."""
    arguments = sorted(source.spec.argument_names)
    returned = returned_by(source) if source.spec.calls else None
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
        returned=returned,
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
