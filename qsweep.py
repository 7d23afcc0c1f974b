"""The public Python API of qsweep.

import qsweep

runs = qsweep.results("digits-grid")             # one row per trained model
epochs = qsweep.results("digits-grid", "epochs")  # one row per epoch of each model
gaps = qsweep.query("SELECT bits, avg(generalization_gap) AS gap FROM runs GROUP BY bits")
print(qsweep.tables("digits-grid", against_paper=True))
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.errors import InputError, QsweepError

if TYPE_CHECKING:
    import pandas as pd

    from db.home import Home

__all__ = ["InputError", "QsweepError", "query", "results", "tables"]


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
    (`qsweep query --schema` lists their columns). Times are UTC. Warns where jobs that several sweeps share
    count more than once. Raises InputError for anything else.
    """
    from reports.query import run_query
    from reports.source import all_sources

    with all_sources(_home(home, registry), sweep=sweep, bundle=_path(bundle)) as sources:
        answer = run_query(sql, sources)
    for note in answer.notes:
        warnings.warn(note, stacklevel=2)
    frame: pd.DataFrame = answer.table.to_pandas()
    return frame


def results(
    sweep: str | None = None,
    kind: str = "runs",
    *,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
) -> pd.DataFrame:
    """The committed results of a launched sweep, while it runs or after.

    `kind` is `runs` (one row per job: settings, losses, accuracies as fractions), `epochs`, `layers`, `measures` or
    `distortions`; or `jobs`, `attempts` or `events`, what the registry says. `sweep` is NAME (the variant launched
    last) or NAME@VARIANT, and not needed with a `bundle`; `home` and `registry` default to `QSWEEP_HOME` and
    `QSWEEP_REGISTRY`, then to `.qsweep`. Raises InputError for an unknown sweep, kind, registry or bundle.
    """
    from reports.source import opened_source

    with opened_source(sweep, _home(home, registry), _path(bundle)) as source:
        return source.frame(kind)


def tables(
    sweep: str | None = None,
    *,
    form: str = "markdown",
    against_paper: bool = False,
    spread: bool = False,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
) -> str:
    """The paper's tables from the results so far, as `markdown`, `latex`, `csv` or `html`.

    Raises InputError for an unknown sweep, format, registry or bundle.
    """
    from reports.answers import render_tables
    from reports.formats import Format
    from reports.render import Layout
    from reports.source import opened_source

    if form not in list(Format):
        raise InputError(f"{form!r} is not a format", allowed="allowed: " + ", ".join(Format))
    with opened_source(sweep, _home(home, registry), _path(bundle)) as source:
        return render_tables(source, Format(form), Layout(against_paper=against_paper, spread=spread))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _home(home: str | Path | None, registry: str | None) -> Home:
    from db.home import Home

    root = Path(home or os.environ.get("QSWEEP_HOME", ".qsweep"))
    return Home.at(root, registry=registry or os.environ.get("QSWEEP_REGISTRY"))
