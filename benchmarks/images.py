"""Images for benchmarks: a real data set, or noise of its shape where only speed counts."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import torch

from qsweep.sweeps.datasets import DATASETS
from qsweep.workers.data import Images, load


@cache
def images_of(name: str, folder: Path | None) -> Images:
    """The data set of this name; noise of CIFAR's shape where there is no folder to read it from."""
    if folder is None and DATASETS[name].folder is not None:
        return noise(name, DATASETS[name].train_images, DATASETS[name].test_images)
    return load(DATASETS[name], folder, download=False)


def noise(name: str, train: int, test: int) -> Images:
    """So many images of a data set's shape: noise around a picture of each class, so that it can be learnt."""
    draw = torch.Generator().manual_seed(0)
    data = dataclasses.replace(DATASETS[name], train_images=train, test_images=test)
    labels = torch.randint(data.classes, (train + test,), generator=draw)
    shape = (data.channels, data.size, data.size)
    pictures = torch.randint(96, (data.classes, *shape), generator=draw, dtype=torch.uint8)
    pixels = torch.randint(160, (train + test, *shape), generator=draw, dtype=torch.uint8).add_(pictures[labels])
    return Images(
        data=data,
        train_images=pixels[:train],
        train_labels=labels[:train],
        test_images=pixels[train:],
        test_labels=labels[train:],
    )
