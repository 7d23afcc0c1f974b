"""A sweep of a function that waits at its second step for a file, so that its agent can be taken from it there."""

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


def write(folder: Path) -> Path:
    """The folder with the files `train.py` and `calls.toml`; it works there."""
    (folder / "train.py").write_text(TRAIN)
    (folder / "calls.toml").write_text(SWEEP)
    return folder


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
