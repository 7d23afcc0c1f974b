"""The files of a data set, by place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np


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
