"""The public Python API of qsweep.

import qsweep

runs = qsweep.results("digits-grid")             # one row per trained model
epochs = qsweep.results("digits-grid", "epochs")  # one row per epoch of each model
gaps = qsweep.query("SELECT bits, avg(generalization_gap) AS gap FROM runs GROUP BY bits")
print(qsweep.tables("digits-grid", against_paper=True))
model = qsweep.load_model(runs.job[0])           # a torch.nn.Module
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qsweep.sweeps.errors import InputError, QsweepError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from qsweep.db.home import Home

__all__ = ["InputError", "QsweepError", "load_model", "query", "results", "tables"]


def query(
    sql: str,
    *,
    sweep: str | None = None,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
) -> pd.DataFrame:
    """The answer of one SELECT (in DuckDB's dialect) over all sweeps, or over `sweep` alone, or over a bundle.

    It may name `runs`, `epochs`, `layers`, `measures`, `distortions`, `jobs`, `attempts`, `events` and `sweeps`
    (`qsweep query --schema` lists their columns). A column's type does not depend on what is missing: `Int64`,
    `boolean`, floats, times in UTC, and tuples for lists. Warns where jobs that several sweeps share
    count more than once. Raises InputError for anything else.
    """
    from qsweep.reports.frames import typed_frame
    from qsweep.reports.opening import all_sources
    from qsweep.reports.query import run_query

    with all_sources(_home(home, registry), sweep=sweep, bundle=_path(bundle)) as sources:
        answer = run_query(sql, sources)
    for note in answer.notes:
        warnings.warn(note, stacklevel=2)
    return typed_frame(answer.table)


def results(
    sweep: str | None = None,
    kind: str = "runs",
    *,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
) -> pd.DataFrame:
    """The committed results of a launched sweep, while it runs or after.

    `kind` is `runs` (one row per job: settings, losses, accuracies as fractions), `epochs` (with `final` false also
    those of trainings that are not done, as of their newest checkpoints), `layers`, `measures` or `distortions`; or
    `jobs`, `attempts` or `events`, what the registry says. `sweep` is NAME (the sweep as written) or
    NAME@VARIANT, and not needed with a `bundle`; `home` and `registry` default to `QSWEEP_HOME` and
    `QSWEEP_REGISTRY`, then to `.qsweep`. Raises InputError for an unknown sweep, kind, registry or bundle.
    """
    from qsweep.reports.frames import typed_frame
    from qsweep.reports.opening import opened_source

    with opened_source(sweep, _home(home, registry), _path(bundle)) as source:
        return typed_frame(source.look(kind))


def tables(
    sweep: str | None = None,
    *,
    form: str = "markdown",
    against_paper: bool = False,
    spread: bool = False,
    median: bool = False,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
) -> str:
    """The paper's tables from the results so far, as `markdown`, `latex`, `csv`, `html` or `json`.

    `median` shows medians in place of means. Raises InputError for an unknown sweep, format, registry or bundle.
    """
    from qsweep.reports.answers import render_tables
    from qsweep.reports.formats import Format
    from qsweep.reports.opening import opened_source
    from qsweep.reports.render import Layout

    if form not in list(Format):
        raise InputError(f"{form!r} is not a format", allowed="allowed: " + ", ".join(Format))
    with opened_source(sweep, _home(home, registry), _path(bundle)) as source:
        return render_tables(source, Format(form), Layout(against_paper=against_paper, spread=spread), median=median)


def load_model(job: str, *, home: str | Path | None = None, registry: str | None = None) -> nn.Module:
    """The trained model of a job as a plain PyTorch module in evaluation mode, on the CPU.

    It has the weights that are deployed: those of the chosen epoch, rounded if the model is quantized, with batch norm
    as it is. It takes images (B, channels, side, side) that are standardized by the mean and the deviation of each
    channel of the training images, and gives logits (B, classes). `job` is a job's identity, or its first digits.
    Raises InputError if it is no training, is not done, diverged, or its model was not kept, or if the registry's
    results are those of another home, and QsweepError if the file is gone or altered. This function needs torch.
    """
    from qsweep.db.belonging import check_belonging
    from qsweep.db.registry import Registry
    from qsweep.sweeps.kinds import File, kind_named

    place = _home(home, registry)
    with Registry.open(place.registry) as opened:
        check_belonging(place, opened)
        row = opened.catalogue.job(job)
    name = f"job {row.identity[:12]}"
    kind = kind_named(row.kind)
    if kind.leaves is not File.MODEL:
        raise InputError(f"{name} makes no model: it is a {kind.noun} of job {row.job.parent}", place="load_model")
    if row.state != "done" or row.diverged:
        raise InputError(f"{name} has no model: it is {'diverged' if row.diverged else row.state}", place="load_model")
    if row.model_file is None or row.model_hash is None:
        raise InputError(
            f"the model of {name} was not kept", place="load_model", allowed='train it under a sweep with keep = "all"'
        )
    from qsweep.workers.checkpoints import load
    from qsweep.workers.deployed import deployed

    return deployed(row.job.training, load(place.models / row.model_file, row.model_hash))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _home(home: str | Path | None, registry: str | None) -> Home:
    from qsweep.db.home import Home

    root = Path(home or os.environ.get("QSWEEP_HOME", ".qsweep"))
    return Home.at(root, registry=registry or os.environ.get("QSWEEP_REGISTRY"))
