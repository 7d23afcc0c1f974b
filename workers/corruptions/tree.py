"""ImageNet-C: a tree of images under each corruption, in the published layout `CORRUPTION/SEVERITY/CLASS/FILE.JPEG`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import clear_folder, write_whole
from qsweep.workers.corruptions.constants import IMAGENET
from qsweep.workers.corruptions.corrupt import corrupt
from qsweep.workers.corruptions.digital import jpeg
from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.sets import FROST
from qsweep.workers.corruptions.textures import read_textures
from qsweep.workers.decoding.listing import SUFFIXES
from qsweep.workers.ordinary import check_ordinary

RESIZED, CROPPED = 256, 224
"""Pixels of the shorter side after resizing, and of both after cropping; other sizes in this proportion."""
QUALITY = 85
"""Of the JPEG files that the corrupted images are saved as, as the published ones were."""
PLACES = ("imagenet/val", "val", ".")
"""Where the tree of classes lies below the folder of the data sets."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of the tree: its class and its file."""

    label: str
    path: Path

    @property
    def place(self) -> str:
        """What its draws are made from: where it stands in the tree."""
        return f"{self.label}/{self.path.stem}"


def list_tree(folder: Path) -> list[Picture]:
    """Every image of an ImageFolder tree, class by class. Raises InputError if there is none."""
    for place in PLACES:
        if found := [Picture(label=one.name, path=path) for one in _classes(folder / place) for path in _images(one)]:
            return found
    raise InputError(
        "there is no tree CLASS/FILE.JPEG of images here",
        place=f"--data {folder}",
        allowed="it may lie in " + ", ".join(f"DIR/{place}" for place in PLACES[:-1]) + " or in DIR itself",
    )


def _classes(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if os.path.isdir(one))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"this folder can't be read: {error.strerror}", place=str(folder)) from None


def _images(folder: Path) -> list[Path]:
    """The images of a class. Raises InputError for one that is not a file."""
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix.lower().encode() in SUFFIXES)
    except OSError as error:
        raise InputError(f"this folder can't be read: {error.strerror}", place=str(folder)) from None
    for one in found:
        check_ordinary(one)
    return found


def read_picture(path: Path, side: int = CROPPED) -> np.ndarray:
    """An image as the networks see it: Resize 256, CenterCrop 224; uint8 (side, side, 3). Raises InputError."""
    image_library = library("PIL.Image")
    check_ordinary(path)
    try:
        with image_library.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise InputError(f"this image can't be read: {error}", place=str(path)) from None
    short, resized = min(picture.size), round(side * RESIZED / CROPPED)
    size = tuple(resized if one == short else int(resized * one / short) for one in picture.size)
    picture = picture.resize(size, image_library.Resampling.BILINEAR)
    left, top = (round((one - side) / 2) for one in size)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def write_pictures(
    pictures: Sequence[Picture],
    corruption: str,
    severity: int,
    out: Path,
    *,
    seed: int,
    textures: Sequence[Path],
    side: int = CROPPED,
) -> int:
    """Write those of the pictures that are not there yet; how many. Each file appears whole or not at all, and what a
    killed run left half written beside them goes."""
    for folder in {target(one, corruption, severity, out).parent for one in pictures}:
        clear_folder(folder)
    missing = [one for one in pictures if not target(one, corruption, severity, out).is_file()]
    if not missing:
        return 0
    photographs = None
    if corruption == FROST and textures:
        photographs = read_textures(textures, IMAGENET.texture_scale, side)
    images = np.stack([read_picture(one.path, side) for one in missing])
    places = [one.place for one in missing]
    found = corrupt(images, corruption, severity, places=places, seed=seed, constants=IMAGENET, textures=photographs)
    for picture, image in zip(missing, found, strict=True):
        _save(library("PIL.Image").fromarray(image), target(picture, corruption, severity, out))
    return len(missing)


def target(picture: Picture, corruption: str, severity: int, out: Path) -> Path:
    """Where the corrupted picture lies."""
    return out / corruption / str(severity) / picture.label / f"{picture.path.stem}.JPEG"


def _save(picture: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, jpeg(picture, QUALITY))
