"""A data set as one file that numpy alone can read: `NAME.npz`, with the four arrays that its fingerprint is over.

`archive` writes such files, for machines that have neither scikit-learn nor torchvision.
"""

from __future__ import annotations

import math
import shutil
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qsweep.sweeps.datasets import DATASETS, DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import ArchiveData
from qsweep.sweeps.wholefiles import whole_file
from qsweep.workers.ordinary import check_ordinary

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
LABEL = 8
"""Bytes of a label."""
HEADERS = 1 << 20
"""Bytes that the archive may have beside its numbers."""


def read_archive(data: DataSet, folder: Path | None) -> tuple[np.ndarray, ...] | None:
    """The arrays of `NAME.npz` in the folder; None if there is none. Raises InputError if it can't be read."""
    path = None if folder is None else folder / data.archive
    if path is None or not path.exists():
        return None
    check_ordinary(path)
    try:
        with path.open("rb") as file:
            _check_size(file, data)
            with np.load(file, allow_pickle=False) as archive:
                return tuple(np.ascontiguousarray(archive[part]) for part in PARTS)
    except Exception as error:  # of a damaged archive, numpy, zipfile and zlib raise a dozen kinds of error
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"the archive of {data.title} is truncated or damaged ({reason})",
            place=str(path),
            allowed="copy it again, or remove it",
        ) from None


def _check_size(file: BinaryIO, data: DataSet) -> None:
    """Raise ValueError if the arrays would unpack to more than the data set has, by the archive's list and by their own
    headers: numpy makes room for what a header says before it reads any of it."""
    images = data.train_images + data.test_images
    most = images * (data.bytes_of_one + LABEL) + HEADERS
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size <= most:
            size = sum(_claimed(archive, f"{part}.npy") for part in PARTS)
    file.seek(0)
    if size > most:
        raise ValueError(f"it would unpack to {size:,} bytes, out of all proportion to the data set")


def _claimed(archive: zipfile.ZipFile, name: str) -> int:
    """The bytes of an array, as its header says."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return math.prod(shape) * dtype.itemsize


def write_archive(name: str, folder: Path, out: Path, *, download: bool) -> None:
    """Write the data set `name` of `folder` as `out/NAME.npz`. Raises InputError as `load` does."""
    from qsweep.workers.data.images import load  # here, because that module reads archives

    images = load(DATASETS[name], folder, download=download)
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / f"{name}.npz", tidy=True) as file:
        save_archive(file, *(getattr(images, part).numpy() for part in PARTS))


def save_archive(file: BinaryIO, *arrays: np.ndarray) -> None:
    """Write train images, train labels, test images and test labels."""
    named: dict[str, Any] = dict(zip(PARTS, arrays, strict=True))
    np.savez_compressed(file, **named)


def archive(asked: ArchiveData) -> dict[str, Any]:
    """Write the data sets that are asked for. Raises InputError as `load` does."""
    for name in asked.arrays:
        target = Path(asked.out) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(asked.data) / name, target)
    for name in asked.datasets:
        write_archive(name, Path(asked.data), Path(asked.out), download=asked.download)
    return {}
