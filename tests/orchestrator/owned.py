"""A sweep of a user's module, for backends that run other sweeps too."""

from __future__ import annotations

from pathlib import Path

NET = """
from torch import nn
from parts import Body

def build(data, *, channels: int = 4):
    return nn.Sequential(Body(data.channels, channels), nn.Flatten(), nn.Linear(16 * channels, data.classes))
"""
PARTS = """
from torch import nn

class Body(nn.Sequential):
    def __init__(self, inputs, channels):
        super().__init__(nn.Conv2d(inputs, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(0.1))
"""
SWEEP = """
tables = []
[fixed]
data = "digits"
model = "file:net.py:build"
optimizer = "sgd"
learning_rate = 0.05
weight_decay = 0.0
epochs = 4
batch_size = 64
[axes]
bits = [32, 4]
seed = [0, 1]
"""
JOBS = 4


def write(folder: Path) -> Path:
    """The folder with `net.py`, which imports `parts.py`, and `own.toml`."""
    for name, text in (("net.py", NET), ("parts.py", PARTS), ("own.toml", SWEEP)):
        (folder / name).write_text(text)
    return folder
