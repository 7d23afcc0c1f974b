"""scikit-learn's handwritten digits (8×8), which come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sweeps.datasets import DataSet


def read_digits(data: DataSet, folder: Path | None, download: bool) -> tuple[np.ndarray, ...]:
    """Train and test images and labels; every fifth image of each class, in order, is for the test."""
    from sklearn.datasets import load_digits  # here, because scikit-learn takes a second to import

    bunch = load_digits()
    images = np.ascontiguousarray(bunch.images.astype(np.uint8)[:, None])
    labels = bunch.target.astype("<i8")
    test = np.zeros(len(labels), dtype=bool)
    for label in range(data.classes):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return images[~test], labels[~test], images[test], labels[test]
