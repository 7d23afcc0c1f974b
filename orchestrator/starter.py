"""What `qsweep init` writes: sweep files with a function and with a network, that run as they are."""

from __future__ import annotations

from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import NAME as SWEEP_NAME
from qsweep.sweeps.wholefiles import whole_file

SWEEP = """\
# qsweep plan {name}.toml     says what it would run
# qsweep launch {name}.toml   runs it; again to resume
# qsweep tables {name}        answers
title = "My first sweep"

# The function that is called for each combination: FILE and NAME. Or a script, whose last line of JSON is the row:
# command = "python train.py --lr {{learning_rate}}"
run = "file:train.py:train"

[fixed]                      # settings with one value
steps = 20

[axes]                       # settings with several: numbers, texts, true and false, lists
learning_rate = [0.05, 0.1, 0.2]
momentum = [0.0, 0.9]
seed = [0, 1, 2]
"""

NET_SWEEP = """\
# qsweep launch {name}-net.toml   trains the network of net.py, in full precision and with weights of 4 bits
title = "My first network"

[fixed]
data = "digits"              # or your own: docs/howto/your-data.md
model = "file:net.py:build"
optimizer = "adam"
learning_rate = 0.01
weight_decay = 0.0
epochs = 3
batch_size = 64

[axes]
width = [4, 8]               # an argument of build
bits = [32, 4]
seed = [0, 1]
"""

NET = '''\
"""A network of yours: any torch.nn.Module that takes a batch and returns logits."""

from torch import nn


def build(data, *, width: int = 8, dropout: float = 0.0):
    """`data` is the data set; keyword-only arguments are settings of the sweep."""
    return nn.Sequential(
        nn.Conv2d(data.channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, data.classes),
    )
'''

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
NAME = "sweep"
"""Of the sweep in a folder whose name can name none."""


def starter_name(folder: Path) -> str:
    """What the sweep in this folder is called: as the folder is."""
    name = folder.absolute().resolve().name
    return name if SWEEP_NAME.fullmatch(name) else NAME


def write_starter(folder: Path) -> list[Path]:
    """Write the files into the folder, which is made. Raises InputError, with nothing written, if one is there."""
    name = starter_name(folder)
    files = {f"{name}.toml": SWEEP.format(name=name), "train.py": TRAIN}
    files |= {f"{name}-net.toml": NET_SWEEP.format(name=name), "net.py": NET}
    if there := [name for name in files if (folder / name).exists()]:
        raise InputError(f"{there[0]} is there already", place=str(folder), allowed="name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, text in files.items():
            with whole_file(folder / file_name, new=True, tidy=True) as file:
                file.write(text.encode())
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror}", place="FOLDER") from None
    return [folder / one for one in files]
