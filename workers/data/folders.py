"""Data sets as folders of image files: found, listed and checked, but not read.

The layout is that of torchvision's ImageFolder: `train/CLASS/…` and `val/CLASS/…`, classes numbered in the order of
their names. `describe` is for `qsweep images`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsweep.sweeps.datasets import DataSet, ImageFolder
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import DescribeImages
from qsweep.workers.decoding.listing import TEST, TRAIN, Listing, folder_of, image_paths


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """One data set as files: what is trained on, and what is tested on."""

    data: DataSet
    train: Listing
    test: Listing


def read_files(data: DataSet, folder: Path | None) -> ImageFiles:
    """List `data` in the data folder and check its fingerprint.

    Raises InputError if a folder or a class is missing, or it is not what its settings describe.
    """
    place = folder_of(data, folder)
    files, classes = list_files(data, place)
    if data.name == ImageFolder.name:
        _check(data, files, classes, listing_fingerprint(files), place)
    else:
        _check(data, files, classes, classes_fingerprint(classes, len(files.train), len(files.test)), place)
    return files


def list_files(data: DataSet, place: Path) -> tuple[ImageFiles, list[str]]:
    """The files of both parts of the set at `place`, and the names of its classes. Raises InputError."""
    classes = _classes(place / TRAIN)
    tested = _classes(place / TEST)
    if unlike := sorted(set(classes) ^ set(tested)):
        raise InputError(
            f"the class {unlike[0]!r} stands in only one of {TRAIN} and {TEST}",
            place=str(place),
            allowed="allowed: the same folders in both",
        )
    parts = {part: _listing(place / part, classes) for part in (TRAIN, TEST)}
    return ImageFiles(data=data, train=parts[TRAIN], test=parts[TEST]), classes


def listing_fingerprint(files: ImageFiles) -> str:
    """32 hex digits of the SHA-256 over the paths and sizes in bytes of all images."""
    digest = hashlib.sha256()
    for name, part in ((TRAIN, files.train), (TEST, files.test)):
        for path in part.paths:
            size = os.stat(os.path.join(os.fsencode(part.root), bytes(path))).st_size
            digest.update(b"%s/%s\0%d\n" % (name.encode(), bytes(path), size))
    return digest.hexdigest()[:32]


def classes_fingerprint(classes: Sequence[str], train_images: int, test_images: int) -> str:
    """32 hex digits of the SHA-256 over the names of the classes and the numbers of images.

    A published set as large as ImageNet is known by these alone: its images would take hours to read.
    """
    text = "".join(f"{name}\n" for name in classes) + f"{train_images}\n{test_images}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check(data: DataSet, files: ImageFiles, classes: Sequence[str], found: str, place: Path) -> None:
    counts = ((len(classes), data.classes, "classes"), (len(files.train), data.train_images, "images to train on"),
              (len(files.test), data.test_images, "images to test on"))  # fmt: skip
    for count, wanted, noun in counts:
        if count != wanted:
            raise InputError(f"there are {count:,} {noun}, not {wanted:,}", place=str(place), allowed=_again(data))
    if found != data.fingerprint:
        raise InputError(
            f"this is not {data.title}: its fingerprint is {found}, not {data.fingerprint}",
            place=str(place),
            allowed=_again(data),
        )


def _classes(part: Path) -> list[str]:
    try:
        found = sorted(entry.name for entry in os.scandir(part) if entry.is_dir())
    except OSError as error:
        raise InputError(
            f"this folder can't be read: {error.strerror or error}",
            place=str(part),
            allowed=f"the images of each class lie in {TRAIN}/CLASS and {TEST}/CLASS",
        ) from None
    if not found:
        raise InputError("there is no folder of a class", place=str(part))
    return found


def _listing(part: Path, classes: Sequence[str]) -> Listing:
    paths: list[bytes] = []
    counts: list[int] = []
    for name in classes:
        before = len(paths)
        paths += sorted(image_paths(os.fsencode(part / name), os.fsencode(name)))
        counts.append(len(paths) - before)
        if len(paths) == before:
            raise InputError("this class has no images", place=str(part / name))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Listing(root=part, paths=np.array(paths, dtype=bytes), labels=labels)


def _again(data: DataSet) -> str:
    if data.name == ImageFolder.name:
        return "copy it again, or describe it as it is now with: qsweep images FOLDER"
    return "remove what is not part of it, or unpack it again"


def describe(asked: DescribeImages) -> dict[str, Any]:
    """The settings of a data set in ImageFolder layout. Raises InputError if it is none."""
    place = Path(asked.folder).expanduser().absolute()
    described = ImageFolder(
        data_folder=place.name,
        image_size=asked.size,
        data_classes=0,
        data_train=0,
        data_test=0,
        data_fingerprint="",
    )
    files, classes = list_files(described.data(), place)
    return {
        "data": ImageFolder.name,
        "data_folder": place.name,
        "image_size": asked.size,
        "data_classes": len(classes),
        "data_train": len(files.train),
        "data_test": len(files.test),
        "data_fingerprint": listing_fingerprint(files),
    }
