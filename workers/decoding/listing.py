"""The files of a data set, by place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.ordinary import check_ordinary

SUFFIXES = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")
"""What ImageFolder takes for an image."""

TRAIN, TEST = "train", "val"
"""The folders of the images that are trained on, and of those that are tested on."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of one part: paths below `root` as fixed-width bytes (N), and labels int64 (N), class by class.

    A million paths are one array: as Python strings they would take several times the memory, in every process.
    """

    root: Path
    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, place: int) -> Path:
        return self.root / os.fsdecode(bytes(self.paths[place]))

    def name(self, place: int) -> str:
        """What an image is called, whatever the format of its file: `CLASS/FILE`."""
        return os.path.splitext(os.fsdecode(bytes(self.paths[place])))[0]


def folder_of(data: DataSet, folder: Path | None) -> Path:
    """The folder of a data set of files, below the data folder. Raises InputError if it is missing."""
    allowed = f"pass --data with the folder that contains {data.folder}/{TRAIN} and {data.folder}/{TEST}"
    if folder is None or data.folder is None:
        raise InputError(f"{data.title} needs a folder", place="--data", allowed=allowed)
    if not (folder / data.folder).is_dir():
        raise InputError(f"data set {data.title} not found", place=str(folder), allowed=allowed)
    return folder / data.folder


def image_paths(folder: bytes, below: bytes, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[bytes]:
    """Paths of the images in a folder and those in it, each beginning with `below`.

    `above` are the folders that hold this one, by device and number. Raises InputError for a folder that can't be
    read or leads back into one of those, and for what has the name of an image and is not a file.
    """
    try:
        found = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        problem = f"this folder can't be read: {error.strerror}"
        raise InputError(problem, place=os.fsdecode(folder)) from None
    here = (found.st_dev, found.st_ino)
    if here in above:
        raise InputError("this link leads back into a folder above it", place=os.fsdecode(folder), allowed="remove it")
    for entry in entries:
        path = os.path.join(below, entry.name)
        if _is(entry.is_dir):
            yield from image_paths(entry.path, path, above | {here})
        elif entry.name.lower().endswith(SUFFIXES):
            if not _is(entry.is_file):
                check_ordinary(entry.path)  # says what it is
            yield path


def _is(asked: Callable[[], bool]) -> bool:
    """What an entry of a folder says of itself; a link that leads to itself is neither folder nor file."""
    try:
        return asked()
    except OSError:
        return False
