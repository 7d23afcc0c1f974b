"""Code of a user for the backends: a function that waits at its second step for a file, so that its agent can be taken
from it there, and a module."""

from __future__ import annotations

from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AttemptRow

TRAIN = """
import time
from pathlib import Path

def train(config, run):
    step = run.restored or 0
    while step < 4:
        step += 1
        run.log(step, loss=config["x"] / step)
        run.save(step)
        if step == 2 and config["x"] == 1:
            Path("reached").touch()
            while not Path("go").exists() and not run.should_stop:
                time.sleep(0.02)
            if run.should_stop:
                return None
    return {"loss": config["x"] / step, "seed_was": run.seed}
"""
SWEEP = """
run = "file:train.py:train"
[axes]
x = [1, 2, 4]
"""


NET = """
from torch import nn

def build(data, *, width: int):
    return nn.Sequential(
        nn.Conv2d(data.channels, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2 * width, data.classes),
    )
"""


def write(folder: Path) -> Path:
    """The folder with the files `train.py` and `calls.toml`; it works there."""
    (folder / "train.py").write_text(TRAIN)
    (folder / "calls.toml").write_text(SWEEP)
    return folder


def write_module(folder: Path) -> None:
    """The module `file:code/net.py:build`, in a folder of its own: beside the decoys it would import them."""
    (folder / "code").mkdir()
    (folder / "code" / "net.py").write_text(NET)


def attempts(home: Home) -> dict[int, list[AttemptRow]]:
    """The attempts at each x, in their order."""
    with Registry.open(home.registry) as registry:
        rows = registry.catalogue.jobs(registry.catalogue.find_sweep("calls").id)
        return {int(row.job.settings()["x"]): registry.history.attempts(row.id) for row in rows}


def saved(home: Home) -> int:
    """The step at x = 1 that the registry knows to be saved."""
    with Registry.open(home.registry) as registry:
        rows = registry.catalogue.jobs(registry.catalogue.find_sweep("calls").id)
        return next(row.progress for row in rows if row.job.settings()["x"] == 1)
