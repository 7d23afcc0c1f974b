"""Finished jobs where researchers look: MLflow, TensorBoard, W&B. Each is optional and writes to a folder alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from qsweep.reports.formats import Tracker
from qsweep.reports.source import Source
from qsweep.reports.trackers.run import TrackedRun, tracked_runs
from qsweep.sweeps.errors import InputError

Writer = Callable[[Iterable[TrackedRun], str, Path], None]


MODULES = {Tracker.MLFLOW: "mlflow", Tracker.TENSORBOARD: "tensorboard", Tracker.WANDB: "wandb"}
"""The module of this package that writes it; the library has the same name."""


def export_to(
    tracker: Tracker, source: Source, folder: Path, *, told: Callable[[int], None] = lambda count: None
) -> int:
    """Write one run a finished job to `folder`, which must be new or empty; how many. `told` hears of each.

    Raises InputError if the folder is in use or the library is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("this is there already", place=f"--out {folder}", allowed="name a new or an empty folder")
    library = MODULES[tracker]
    try:
        write: Writer = import_module(f"qsweep.reports.trackers.{library}").write
    except ImportError as error:
        raise InputError(
            f"{library} can't be imported ({error})", place="--to", allowed=f"pip install 'qsweep[{library}]'"
        ) from None
    runs = list(tracked_runs(source))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(_counted(runs, told), source.title, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half an export would pass for a whole one
        raise
    return len(runs)


def _counted(runs: Iterable[TrackedRun], told: Callable[[int], None]) -> Iterable[TrackedRun]:
    for number, run in enumerate(runs, 1):
        yield run
        told(number)
