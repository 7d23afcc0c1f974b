"""A corrupted test set as image files: the tree that lies in the data folder, or images corrupted as they are read.

The published ImageNet-C is `DATA/ImageNet-C/CORRUPTION/SEVERITY/CLASS/FILE.JPEG`; that of a folder NAME of the user's
own is looked for in `DATA/NAME-C`. A tree that was written here (`workers.corruptions.tree`) says so in `qsweep.json`,
and holds, bit for bit, what is drawn without it.
"""

from __future__ import annotations

import functools
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.corruptions.constants import IMAGENET
from qsweep.workers.corruptions.corrupt import corrupt
from qsweep.workers.corruptions.digital import jpeg
from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.sets import (
    FROST,
    GENERATED,
    PHOTOGRAPHS,
    PUBLISHED,
    SEMANTICS,
    SYNTHETIC,
    frost_textures,
    read_origin,
)
from qsweep.workers.corruptions.textures import read_textures
from qsweep.workers.corruptions.tree import QUALITY
from qsweep.workers.decoding.listing import Listing, image_paths

TREES = {"imagenet": "ImageNet-C"}
"""What the published trees are called; any other is the data set's folder with -C behind it."""
SUFFIX = ".JPEG"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The test set under one corruption at one severity, as files CLASS/FILE.JPEG below `root`."""

    root: Path
    source: str
    frost: str | None
    """What frost was made of, where it was made here."""

    def path(self, listing: Listing, place: int) -> Path:
        """The corrupted image of the clean one at this place."""
        return self.root / f"{listing.name(place)}{SUFFIX}"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The test set under one corruption at one severity, drawn with ImageNet-C's constants on the images as evaluated.

    As the published images were, each is saved as JPEG of quality 85, and read again. What is drawn for an image
    depends on `seed`, the corruption, the severity and the image's name in its listing.
    """

    corruption: str
    severity: int
    seed: int
    textures: tuple[Path, ...] = ()
    """Photographs of frost; none where it is synthetic."""
    source = GENERATED

    @property
    def frost(self) -> str | None:
        """What frost is made of; None of other corruptions."""
        return None if self.corruption != FROST else PHOTOGRAPHS if self.textures else SYNTHETIC

    def applied(self, pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Images uint8 (N, 3, side, side), each with its name, corrupted."""
        library("cv2").setNumThreads(1)  # a process for each core does this already
        textures = _photographs(self.textures, pixels.shape[-1]) if self.textures else None
        pictures = corrupt(
            np.ascontiguousarray(np.moveaxis(pixels, 1, -1)),
            self.corruption,
            self.severity,
            places=names,
            seed=self.seed,
            constants=IMAGENET,
            textures=textures,
        )
        image_library = library("PIL.Image")
        files = [io.BytesIO(jpeg(image_library.fromarray(one), QUALITY)) for one in pictures]
        saved = np.stack([np.asarray(image_library.open(one)) for one in files])
        return np.ascontiguousarray(np.moveaxis(saved, -1, 1))


CorruptedFiles = Stored | Drawn


@functools.cache
def _photographs(files: tuple[Path, ...], side: int) -> tuple[np.ndarray, ...]:
    return read_textures(files, IMAGENET.texture_scale, side)


def tree_folder(data: DataSet, folder: Path) -> Path:
    """Where the corrupted tree of a data set lies, below the folder of the data sets, if there is one."""
    return folder / TREES.get(data.name, f"{data.folder}-C")


def corrupted_files(
    data: DataSet, folder: Path | None, corruption: str, severity: int, *, seed: int = 0
) -> CorruptedFiles:
    """The tree in the folder of the data sets, if it is published or was written here under `seed`; else a drawn one.

    Raises InputError for a published corruption without this severity, and for a folder of frost without pictures.
    """
    stored = None if folder is None else _stored(data, folder, corruption, severity, seed)
    if stored is not None:
        return stored
    textures = tuple(frost_textures(folder)) if corruption == FROST else ()
    return Drawn(corruption=corruption, severity=severity, seed=seed, textures=textures)


def _stored(data: DataSet, folder: Path, corruption: str, severity: int, seed: int) -> Stored | None:
    tree = tree_folder(data, folder)
    root, origin = tree / corruption / str(severity), read_origin(tree)
    if origin is None:
        if root.is_dir():
            return Stored(root=root, source=PUBLISHED, frost=None)
        if root.parent.is_dir():
            raise InputError(f"{corruption} has no severity {severity} here", place=str(tree), allowed=_again(tree))
        return None
    if not root.is_dir() or (origin["seed"], origin["semantics"]) != (seed, SEMANTICS):
        return None
    frost = str(origin["frost"]).partition(" ")[0] if corruption == FROST else None
    return Stored(root=root, source=GENERATED, frost=frost)


def check_stored(stored: Stored, clean: Listing, side: int) -> None:
    """Raise InputError unless the tree has each of the clean test images under its class and name, and no other.

    Its first image has to have `side` pixels a side.
    """
    allowed = _again(stored.root.parents[1])
    found = set(image_paths(os.fsencode(stored.root), b""))
    wanted = {os.fsencode(f"{clean.name(place)}{SUFFIX}") for place in range(len(clean))}
    if found != wanted:
        raise InputError(_difference(found, wanted), place=str(stored.root), allowed=allowed)
    if len(wanted) != len(clean):
        raise InputError("two test images differ in their suffix alone", place=str(clean.root))
    first = stored.path(clean, 0)
    try:
        with library("PIL.Image").open(first) as picture:
            size = picture.size
    except OSError as error:
        raise InputError(f"this image can't be read: {error}", place=str(first), allowed=allowed) from None
    check_size(size, side, first)


def check_size(size: tuple[int, int], side: int, path: Path) -> None:
    """Raise InputError unless an image of a corrupted tree has the size that networks are evaluated at."""
    if size != (side, side):
        problem = f"this corrupted image has {size[0]}×{size[1]} pixels, not {side}×{side}"
        raise InputError(problem, place=str(path), allowed="such a tree is of images as they are evaluated; remove it")


def _difference(found: set[bytes], wanted: set[bytes]) -> str:
    """In what a tree is not that of the test images: in its classes, in the number of images of one, or in a name."""
    here, there = (Counter(path.partition(b"/")[0] for path in some) for some in (found, wanted))
    for name in sorted(here.keys() | there.keys()):
        if name not in here:
            return f"the class {os.fsdecode(name)!r} is missing"
        if name not in there:
            return f"the test images have no class {os.fsdecode(name)!r}"
        if here[name] != there[name]:
            return f"the class {os.fsdecode(name)!r} has {here[name]} images, not {there[name]}"
    return f"{os.fsdecode(min(wanted - found))} is missing, and there is {os.fsdecode(min(found - wanted))}"


def _again(tree: Path) -> str:
    return f"get {tree.name} again, write it with `qsweep corruptions`, or remove it: then its images are drawn"
