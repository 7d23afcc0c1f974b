"""Export to Weights & Biases in offline mode: nothing is sent until the user runs `wandb sync`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qsweep.reports.trackers.run import TrackedRun

# An offline run alone would not keep wandb from looking up its server for telemetry of its own: both have to be said
# before it is imported.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"

import wandb


def write(runs: Iterable[TrackedRun], title: str, folder: Path) -> None:
    """One offline run a job, in a project called as the sweep's variant."""
    settings = wandb.Settings(
        mode="offline",
        silent=True,
        disable_git=True,
        disable_code=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    for run in runs:
        tracked = wandb.init(
            project=title.replace("@", "-"),
            id=run.job,
            name=run.name,
            job_type=run.kind,
            config={**run.parameters, **run.tags},
            dir=str(folder),
            settings=settings,
        )
        for epoch, row in run.history:
            tracked.log({f"epoch/{name}": value for name, value in row.items()}, step=epoch)
        tracked.summary.update(dict(run.metrics))
        tracked.finish()
