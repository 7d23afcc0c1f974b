"""Image folders for tests: small JPEG files of structured noise, drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qsweep.sweeps.datasets import DATASETS, DataSet, ImageFolder
from qsweep.sweeps.training import Training
from qsweep.workers.data.folders import list_files, listing_fingerprint

CLASSES = ("ant", "bee", "cat")


def write_folder(place: Path, *, train: int = 8, test: int = 4, seed: int = 0) -> Path:
    """`train` and `test` images of each class, of sizes of their own; classes differ in brightness."""
    draw = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", test)):
        for number, name in enumerate(CLASSES):
            folder = place / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = draw.integers(20, 60, 2)
                coarse = draw.integers(0, 256, (4, 5, 3)).astype(np.uint8)
                picture = Image.fromarray(coarse // 2 + 60 * number).resize((int(width), int(height)))
                picture.save(folder / f"{index}.JPEG", quality=90)
    return place


def described(place: Path, **settings: Any) -> dict[str, Any]:
    """The settings of a training on the folder at `place`."""
    files, classes = list_files(some_data(place), place)
    return {
        "data": ImageFolder.name,
        "data_folder": place.name,
        "image_size": 16,
        "data_classes": len(classes),
        "data_train": len(files.train),
        "data_test": len(files.test),
        "data_fingerprint": listing_fingerprint(files),
        "model": "resnet",
        "depth": 18,
        "width": 2,
        "stem": "large",
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "bits": 32,
        "epochs": 2,
        "batch_size": 5,
        "augment": "resized-crop",
        **settings,
    }


def training_on(place: Path, **settings: Any) -> Training:
    return Training.from_settings(described(place, **settings))


def some_data(place: Path) -> DataSet:
    """Any data set of this layout, for a listing."""
    return DATASETS[ImageFolder.name]
