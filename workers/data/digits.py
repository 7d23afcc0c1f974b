"""scikit-learn's handwritten digits (8×8), read from the file in its package: importing that takes a second or two."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError


def read_digits(data: DataSet, folder: Path | None, download: bool) -> tuple[np.ndarray, ...]:
    """Train and test images and labels; every fifth image of each class, in order, is for the test."""
    table = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
    images = np.ascontiguousarray(table[:, :-1].reshape(-1, 1, 8, 8))
    labels = table[:, -1].astype("<i8")
    test = np.zeros(len(labels), dtype=bool)
    for label in range(data.classes):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return images[~test], labels[~test], images[test], labels[test]


def _file() -> Path:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError(
            "the digits come with scikit-learn, which is not installed", allowed="pip install scikit-learn"
        )
    file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    if not file.is_file():
        raise InputError("this scikit-learn has no digits", place=str(file), allowed="another version of scikit-learn")
    return file
