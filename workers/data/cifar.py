"""CIFAR-10 and CIFAR-100, as they are published and torchvision keeps them in a folder.

They are read here and only downloaded by torchvision: to import that takes as long as to import torch.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.ordinary import check_ordinary

TRAIN: Mapping[str, Mapping[str, str]] = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "cifar100": {"train": "16019d7e3df5f24257cddd939b257f8d"},
}
"""The files of each data set, with the published MD5 of each: a pickle that is another one may do anything."""
TEST: Mapping[str, Mapping[str, str]] = {
    "cifar10": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    "cifar100": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


def read_cifar(data: DataSet, folder: Path | None, download: bool) -> tuple[np.ndarray, ...]:
    """Train and test images and labels from `folder`, downloaded there first if that is asked."""
    if folder is None:
        raise InputError(f"{data.title} needs a folder", place="--data", allowed=_remedy(data))
    place = folder / str(data.folder)
    for file in place.glob("*"):
        if file.exists() and not file.is_dir():
            check_ordinary(file)
    if download and not place.exists():  # never over what the user has
        _download(data, folder)
    if not place.exists():
        raise InputError(f"data set {data.title} not found", place=str(folder), allowed=_remedy(data))
    parts: list[np.ndarray] = []
    for files in (TRAIN[data.name], TEST[data.name]):
        try:
            found = [_read(place / name, checksum) for name, checksum in files.items()]
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            problem = f"{data.title} can't be read: a file is missing, truncated or damaged ({reason})"
            raise InputError(problem, place=str(folder), allowed=_remedy(data)) from error
        images = np.concatenate([one["data"] for one in found]).reshape(-1, 3, 32, 32)
        labels = [label for one in found for label in one[LABELS[data.name]]]
        parts += [images, np.asarray(labels, dtype="<i8")]
    return tuple(parts)


def _read(path: Path, checksum: str) -> dict[str, np.ndarray]:
    """The content of a published pickle. Raises ValueError for anything else, without looking into it."""
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise ValueError(f"{path.name} is not the published file")
    found: dict[str, np.ndarray] = pickle.load(io.BytesIO(content), encoding="latin1")
    return found


def _download(data: DataSet, folder: Path) -> None:
    """Raises InputError if it can't be had."""
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[data.name]
    try:
        source(str(folder), download=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}"
        problem = f"data set {data.title} not found, and it can't be downloaded ({reason})"
        raise InputError(problem, place=str(folder), allowed=_remedy(data)) from error


def _remedy(data: DataSet) -> str:
    return f"pass --data with the folder that contains {data.folder}, or run `launch` and it will be downloaded"
