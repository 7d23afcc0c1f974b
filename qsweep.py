"""The public Python API of qsweep.

import qsweep

runs = qsweep.results("digits-grid")             # one row a trained model
epochs = qsweep.results("digits-grid", "epochs")  # one row an epoch of each model
print(qsweep.tables("digits-grid", against_paper=True))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.errors import InputError, QsweepError

if TYPE_CHECKING:
    import pandas as pd

    from db.home import Home

__all__ = ["InputError", "QsweepError", "results", "tables"]


def results(
    sweep: str, kind: str = "runs", *, home: str | Path | None = None, registry: str | None = None
) -> pd.DataFrame:
    """The committed results of a launched sweep, while it runs or after.

    `kind` is `runs` (one row a job: settings, losses, accuracies as fractions), `epochs` or `layers`. `sweep`
    is NAME (the variant launched last) or NAME@VARIANT; `home` and `registry` default to `QSWEEP_HOME` and
    `QSWEEP_REGISTRY`, then to `.qsweep`. Raises InputError for an unknown sweep, kind or registry.
    """
    from db.registry import Registry
    from db.results import ResultStore

    place = _home(home, registry)
    with Registry.open(place.registry) as opened:
        committed = opened.committed(opened.find_sweep(sweep).id)
    return ResultStore(place.results).read(kind, committed).to_pandas()


def tables(
    sweep: str,
    *,
    form: str = "markdown",
    against_paper: bool = False,
    spread: bool = False,
    home: str | Path | None = None,
    registry: str | None = None,
) -> str:
    """The paper's tables from the results so far, as `markdown`, `latex` or `csv`.

    Raises InputError for an unknown sweep, format or registry.
    """
    from db.registry import Registry
    from reports.answers import render_tables
    from reports.render import Format, Layout

    if form not in list(Format):
        raise InputError(f"{form!r} is not a format", allowed="allowed: " + ", ".join(Format))
    place = _home(home, registry)
    with Registry.open(place.registry) as opened:
        found = opened.find_sweep(sweep)
        layout = Layout(against_paper=against_paper, spread=spread)
        return render_tables(place, opened, found, Format(form), layout)


def _home(home: str | Path | None, registry: str | None) -> Home:
    from db.home import Home

    root = Path(home or os.environ.get("QSWEEP_HOME", ".qsweep"))
    return Home.at(root, registry=registry or os.environ.get("QSWEEP_REGISTRY"))
