"""What `qsweep init` writes: a sweep file and a function that run as they are."""

from __future__ import annotations

from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import whole_file

SWEEP = """\
# qsweep plan sweep.toml     says what it would run
# qsweep launch sweep.toml   runs it; again to resume
# qsweep tables sweep        answers
title = "My first sweep"

# The function that is called for each combination: FILE and NAME. Or a script, whose last line of JSON is the row:
# command = "python train.py --lr {learning_rate}"
run = "file:train.py:train"

[fixed]                      # settings with one value
steps = 20

[axes]                       # settings with several: numbers, texts, true and false, lists
learning_rate = [0.05, 0.1, 0.2]
momentum = [0.0, 0.9]
seed = [0, 1, 2]
"""

TRAIN = '''\
"""A training of yours. Any library will do; this one fits a line with none."""

import random


def train(run, *, steps: int, learning_rate: float = 0.1, momentum: float = 0.0):
    """Keyword-only arguments are the settings of the sweep: `qsweep plan` checks their types."""
    state = run.restored or {"step": 0, "slope": 0.0, "speed": 0.0}
    draw = random.Random(run.seed)
    points = [(x, 3 * x + draw.gauss(0, 0.1)) for x in (draw.random() for _ in range(50))]
    while state["step"] < steps:
        slope = state["slope"]
        gradient = sum(2 * (slope * x - y) * x for x, y in points) / len(points)
        state["speed"] = momentum * state["speed"] - learning_rate * gradient
        state["slope"] += state["speed"]
        state["step"] += 1
        loss = sum((state["slope"] * x - y) ** 2 for x, y in points) / len(points)
        run.log(state["step"], loss=loss)
        if run.should_stop:  # the machine is wanted back: what is saved is where the next attempt begins
            run.save(state)
            return None
    return {"loss": loss, "slope": state["slope"]}
'''
FILES = {"sweep.toml": SWEEP, "train.py": TRAIN}


def write_starter(folder: Path) -> list[Path]:
    """Write the files into the folder, which is made. Raises InputError, with nothing written, if one is there."""
    if there := [name for name in FILES if (folder / name).exists()]:
        raise InputError(f"{there[0]} is there already", place=str(folder), allowed="name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            with whole_file(folder / name, new=True) as file:
                file.write(text.encode())
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror}", place="FOLDER") from None
    return [folder / name for name in FILES]
