"""CIFAR-10 and CIFAR-100, as torchvision keeps them in a folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.ordinary import check_ordinary


def read_cifar(data: DataSet, folder: Path | None, download: bool) -> tuple[np.ndarray, ...]:
    """Train and test images and labels from `folder`, downloaded there first if that is asked."""
    if folder is None:
        raise InputError(f"{data.title} needs a folder", place="--data", allowed=_remedy(data))
    from torchvision.datasets import CIFAR10, CIFAR100  # here, because the digits don't need torchvision

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[data.name]
    for file in (folder / str(data.folder)).glob("*"):
        if file.exists() and not file.is_dir():
            check_ordinary(file)
    parts: list[np.ndarray] = []
    download = download and not (folder / str(data.folder)).exists()  # never over what the user has
    for train in (True, False):
        try:
            part = source(str(folder), train=train, download=download)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise InputError(_problem(data, folder, error), place=str(folder), allowed=_remedy(data)) from error
        images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
        parts += [images, np.asarray(part.targets, dtype="<i8")]
    return tuple(parts)


def _problem(data: DataSet, folder: Path, error: Exception) -> str:
    if data.folder is not None and not (folder / data.folder).exists():
        return f"data set {data.title} not found"
    reason = f"{type(error).__name__}: {error}"
    return f"{data.title} can't be read: a file is missing, truncated or damaged ({reason})"


def _remedy(data: DataSet) -> str:
    return f"pass --data with the folder that contains {data.folder}, or run `launch` and it will be downloaded"
