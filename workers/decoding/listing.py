"""The files of a data set, by place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")
"""What ImageFolder takes for an image."""


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


def image_paths(folder: bytes, below: bytes) -> Iterator[bytes]:
    """Paths of the images in a folder and those in it, each beginning with `below`."""
    for entry in os.scandir(folder):
        path = os.path.join(below, entry.name)
        if entry.is_dir():
            yield from image_paths(entry.path, path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield path
