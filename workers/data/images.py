"""A data set in memory: found, read and checked by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from qsweep.sweeps.components import Implementations
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.data.archive import read_archive
from qsweep.workers.data.folders import ImageFiles, read_files

Arrays = tuple[np.ndarray, ...]
Reader = Callable[[DataSet, Path | None, bool], Arrays]

READERS = Implementations("data")
"""What reads a data set: a `Reader`, or `read_files` where the images stay in their files."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """One data set on the CPU: images (N, *shape) of uint8 or float32, labels int64 (N)."""

    data: DataSet
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


Collection: TypeAlias = Images | ImageFiles
"""A data set in memory, or as files."""


def find(data: DataSet, folder: Path | None, *, download: bool) -> Collection:
    """`data` as it is kept while it is trained on: in memory, or as the list of its files. Raises InputError as `load`
    and `read_files` do."""
    return read_files(data, folder) if data.streamed else load(data, folder, download=download)


def load(data: DataSet, folder: Path | None, *, download: bool) -> Images:
    """Read `data` and check its fingerprint: from an archive in `folder` if there is one, else from where it
    usually lies, in `folder` or in a package.

    Raises InputError if it is missing, can't be read, or holds something else.
    """
    if data.streamed:
        raise InputError(f"{data.title} is too large for the memory", place=data.name)
    archived = read_archive(data, folder)
    arrays = READERS[data.name](data, folder, download) if archived is None else archived
    found = fingerprint(arrays)
    if found != data.fingerprint:
        published = "the" if data.source else "the published"
        raise InputError(
            f"this is not {published} {data.title}: its fingerprint is {found}, not {data.fingerprint}",
            place=str(folder / data.folder) if folder and data.folder else data.name,
            allowed="remove it and get it again",
        )
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(one) for one in arrays)
    return Images(
        data=data,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def fingerprint(arrays: Arrays) -> str:
    """32 hex digits of the SHA-256 over the bytes of the four arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]
