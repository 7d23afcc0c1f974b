"""The public Python API of qsweep.

import qsweep

runs = qsweep.results("digits-grid")             # one row per trained model
epochs = qsweep.results("digits-grid", "epochs")  # one row per epoch of each model
gaps = qsweep.query("SELECT bits, avg(generalization_gap) AS gap FROM runs GROUP BY bits")
print(qsweep.tables("digits-grid", against_paper=True))
model = qsweep.load_model(runs.job[0])           # a torch.nn.Module

sweep = qsweep.Sweep("forest", run="file:train.py:train", axes={"trees": [10, 100], "seed": [0, 1, 2]})
sweep.launch()
print(sweep.tables())
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qsweep.sweeps.errors import InputError, QsweepError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from qsweep.db.home import Home
    from qsweep.orchestrator.ui.serve import Background

__all__ = ["InputError", "QsweepError", "Sweep", "load_model", "query", "results", "tables", "ui"]


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
    """The model of a training, or of a quantization on images, as a plain PyTorch module in evaluation mode, on the
    CPU; of a module of yours, that module, made by the copy of its code that was launched.

    It has the weights that are deployed: those of the chosen epoch, rounded if the model is quantized, as what its
    layers read is then, with batch norm as it is. It takes images (B, channels, side, side) that are standardized by
    the mean and the deviation of each channel of the training images, and gives logits (B, classes). `job` is a job's
    identity, or its first digits. Raises InputError if it makes no model, if it is not done, diverged, or its model was
    not kept, or if the registry's results are those of another home, and QsweepError if the file is gone or altered.
    This function needs torch.
    """
    from qsweep.db.belonging import check_belonging
    from qsweep.db.registry import Registry
    from qsweep.sweeps.kinds import QUANTIZATION, File, kind_named

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
    from qsweep.workers.user_code import look_in

    look_in(place.user_code)

    content = load(place.models / row.model_file, row.model_hash)
    return deployed(row.job.training, content, quantized=kind is QUANTIZATION)


def ui(
    *,
    home: str | Path | None = None,
    registry: str | None = None,
    bundle: str | Path | None = None,
    port: int = 0,
    height: int = 720,
) -> Background:
    """The live page of `qsweep ui`, served from a thread of this process to this machine alone; it only reads.

    As the last value of a notebook's cell it is shown there, `height` CSS pixels high. `address` is where a browser
    finds it; `close()` ends it. `port` 0 is any that is free. Raises InputError for an unknown home, registry or
    bundle, a port that is in use, or where the extra `ui` is not installed.
    """
    from qsweep.orchestrator.ui.serve import NOTEBOOKS, Background, Wanted

    wanted = Wanted(home=_home(home, registry), bundle=_path(bundle), port=port, frames=NOTEBOOKS)
    return Background(wanted, height=height)


class Sweep:
    """A sweep made in Python: the same as a sweep file NAME.toml with this content, in whatever folder you are.

    `fixed` holds settings with one value, `axes` those with several (or `{"by": …}`), as in the file. `run` is a
    function of a file of yours, as `file:PATH:NAME` (from the `folder`) or as itself; `command` a command line with
    `{setting}` in it; without both, the settings are those of a training. `options` are the other keys of a sweep file:
    `title`, `tables`, `measures`, `measures_of`, `zero_shot`, `keep`, `compare_with`. Raises InputError where the file
    would be refused.
    """

    def __init__(
        self,
        name: str,
        *,
        fixed: Mapping[str, Any] | None = None,
        axes: Mapping[str, Any] | None = None,
        run: str | Callable[..., Any] | None = None,
        command: str | None = None,
        folder: str | Path = ".",
        home: str | Path | None = None,
        registry: str | None = None,
        **options: Any,
    ) -> None:
        from qsweep.sweeps.files import make_sweep

        called = {"run": _reference(run), "command": command}
        content = options | {key: value for key, value in called.items() if value is not None}
        content |= {"fixed": dict(fixed or {}), "axes": dict(axes or {})}
        self._home, self._registry = home, registry
        self.spec = make_sweep(content, name, Path(folder).absolute())
        self.name = name

    def plan(self) -> pd.DataFrame:
        """Every job as a row of its settings, in order, by its identity. Starts nothing."""
        import pandas as pd

        jobs = self.spec.jobs()
        index = pd.Index([job.identity for job in jobs], name="job")
        return pd.DataFrame([job.settings() for job in jobs], index=index)

    def launch(
        self,
        *,
        workers: int | None = None,
        where: str | None = None,
        limit: int | None = None,
        time_limit: float | None = None,
        detach: bool = False,
        code: Literal["frozen", "current"] | None = None,
    ) -> None:
        """Run what is missing, on this machine, as `qsweep launch` does; again to resume. Raises QsweepError if jobs
        failed."""
        from qsweep.db.rules import LEASE
        from qsweep.orchestrator.backends.choice import BackendName, Wish, choose
        from qsweep.orchestrator.freezing import Code
        from qsweep.orchestrator.launcher import Execution, launch
        from qsweep.orchestrator.selection import selection_of

        launched = launch(
            _home(self._home, self._registry),
            selection_of(self.spec, where=where, limit=limit),
            lambda: choose(Wish(name=BackendName.LOCAL, options={})),
            Execution(workers=workers, lease=LEASE, time_limit=time_limit, detach=detach),
            code=None if code is None else Code(code),
        )
        if detach:
            return
        from qsweep.db.registry import Registry

        with Registry.open(_home(self._home, self._registry).registry) as opened:
            failed = opened.catalogue.counts(launched.id).failed
        if failed:
            raise QsweepError(f"{failed} jobs failed; see: qsweep jobs {launched.title} --state failed")

    def results(self, kind: str | None = None) -> pd.DataFrame:
        """What is done so far, a row a job: for a function or command its settings and what it returned."""
        if kind is None and self.spec.calls:
            return query("SELECT * FROM returned", sweep=self.name, home=self._home, registry=self._registry)
        return results(self.name, kind or "runs", home=self._home, registry=self._registry)

    def tables(self, form: str = "markdown", *, spread: bool = False) -> str:
        """Its tables from the results so far."""
        return tables(self.name, form=form, spread=spread, home=self._home, registry=self._registry)


def _reference(run: str | Callable[..., Any] | None) -> str | None:
    """A function as `file:PATH:NAME`. Raises InputError for one that stands in no file."""
    if run is None or isinstance(run, str):
        return run
    import inspect

    name, file = getattr(run, "__qualname__", ""), None
    with contextlib.suppress(TypeError):
        file = inspect.getsourcefile(run)
    if file is None or not Path(file).is_file() or not name.isidentifier():
        raise InputError("run is no function of a file", place="run", allowed="write it into a file: file:PATH.py:NAME")
    return f"file:{Path(file).absolute()}:{name}"


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _home(home: str | Path | None, registry: str | None) -> Home:
    from qsweep.db.home import Home

    root = Path(home or os.environ.get("QSWEEP_HOME", ".qsweep"))
    return Home.at(root, registry=registry or os.environ.get("QSWEEP_REGISTRY"))
