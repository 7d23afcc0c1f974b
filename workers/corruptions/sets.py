"""A corrupted test set as files: the published ones where the user has them, else generated once and found again.

`FOLDER/CIFAR-100-C/NAME.npy` is uint8 (5·N, side, side, channels): severity 1 first, the N test images of each in their
order; `labels.npy` beside it has their labels (5·N). A folder that was filled here says so in `qsweep.json`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsweep.sweeps.corruptions import SEVERITIES
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import whole_file, write_whole
from qsweep.workers.corruptions.constants import CIFAR
from qsweep.workers.corruptions.corrupt import corrupt
from qsweep.workers.corruptions.libraries import check_libraries
from qsweep.workers.corruptions.textures import digest_of, read_textures, texture_files
from qsweep.workers.ordinary import check_ordinary

PUBLISHED, GENERATED = "published", "generated"
SYNTHETIC, PHOTOGRAPHS = "synthetic", "photographs"
LABELS = "labels.npy"
ORIGIN = "qsweep.json"
"""The file of a generated set that says how it was drawn."""
FROST = "frost"
"""The corruption that takes textures, and the folder of the data sets in which photographs of frost may lie."""
BATCH = 250
"""Images that are corrupted at a time: no part of what comes out."""
SEMANTICS = 2
"""Raised when the same seed gives other images."""
PATIENCE = 0.2
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """The clean test set of `data`: images uint8 (N, channels, side, side), labels int64 (N)."""

    __test__ = False

    data: DataSet
    images: np.ndarray
    labels: np.ndarray

    @property
    def pictures(self) -> np.ndarray:
        """The images as pictures: (N, side, side, channels), white being 255."""
        return as_pictures(self.images, self.data)


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """The test set under one corruption at one severity, as a read-only view of its file.

    `images` is uint8 (N, side, side, channels), white being 255. `frost` says what frost was made of, where it was.
    """

    images: np.ndarray
    source: str
    fingerprint: str
    """32 hex digits of the SHA-256 of the images."""
    frost: str | None


def as_pictures(images: np.ndarray, data: DataSet) -> np.ndarray:
    """Images of the data set (N, channels, side, side) as pictures (N, side, side, channels), white being 255."""
    pictures = np.moveaxis(images, 1, -1)
    if data.peak == 255:
        return np.ascontiguousarray(pictures)
    return np.rint(pictures * (255 / data.peak)).astype(np.uint8)


def folder_name(data: DataSet) -> str:
    """What the published folder is called: `CIFAR-100-C`."""
    return f"{data.title}-C"


def published_file(data: DataSet, folder: Path | None, corruption: str) -> Path | None:
    """The file of a published corruption below the folder of the data sets; None if there is none."""
    path = None if folder is None else folder / folder_name(data) / f"{corruption}.npy"
    return path if path is not None and path.is_file() else None


def open_file(path: Path, data: DataSet) -> np.ndarray:
    """A memory map of the corrupted images in `path`, their shape and type checked. Raises InputError."""
    wanted = (len(SEVERITIES) * data.test_images, data.size, data.size, data.channels)
    try:
        images = np.lib.format.open_memmap(path, mode="r")  # np.load would take an archive for an array, too
    except Exception as error:  # of a damaged header, numpy raises what Python's own parser does
        raise InputError(f"this is no array of numpy: {error}", place=str(path), allowed=_published(data)) from None
    if images.shape != wanted or images.dtype != np.uint8:
        raise InputError(
            f"this holds {images.dtype} {images.shape}, not uint8 {wanted}", place=str(path), allowed=_published(data)
        )
    found: np.ndarray = images
    return found


def check_labels(folder: Path, data: DataSet, labels: np.ndarray | None = None) -> None:
    """Raise InputError unless `labels.npy` has the test labels (all N, where given) once for each severity."""
    path, count = folder / LABELS, len(SEVERITIES) * data.test_images
    if path.exists():
        check_ordinary(path)
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # as above
        raise InputError(f"the labels can't be read: {error}", place=str(path), allowed=_published(data)) from None
    if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
        problem = f"this holds {found.dtype} {found.shape}, not {count} labels"
        raise InputError(problem, place=str(path), allowed=_published(data))
    if labels is not None and not np.array_equal(found, np.tile(labels, len(SEVERITIES))):
        raise InputError(f"these are not the labels of {data.title}'s test set", place=str(path))


def _published(data: DataSet) -> str:
    return f"get the published {folder_name(data)} again, or remove it: then it is generated"


class CorruptedSets:
    """The corrupted sets of the data sets in `folder`: those published in it, all others generated into `cache`.

    Photographs of frost are taken from `folder/frost` if there is one. Several processes may share a cache: of each
    file one makes it, complete or not at all, and the others wait. `tick` is called while that goes on.
    """

    def __init__(self, folder: Path | None, cache: Path) -> None:
        self.folder, self._cache = folder, cache

    def at(
        self, clean: TestSet, corruption: str, severity: int, *, seed: int = 0, tick: Tick = lambda: None
    ) -> Corrupted:
        """The test set under one corruption at one severity. Raises InputError."""
        path = published_file(clean.data, self.folder, corruption)
        origin = None if path is None else read_origin(path.parent)
        if path is None or (origin is not None and (origin["seed"], origin["semantics"]) != (seed, SEMANTICS)):
            textures = frost_textures(self.folder) if corruption == FROST else []
            path = self._made(clean, corruption, seed, textures, tick)
        check_labels(path.parent, clean.data, clean.labels)
        origin = read_origin(path.parent)
        source = PUBLISHED if origin is None else GENERATED
        frost = None if origin is None or corruption != FROST else str(origin["frost"]).partition(" ")[0]
        images = open_file(path, clean.data)[(severity - 1) * len(clean.labels) :][: len(clean.labels)]
        digest = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:32]
        return Corrupted(images=images, source=source, fingerprint=digest, frost=frost)

    def _made(self, clean: TestSet, corruption: str, seed: int, textures: Sequence[Path], tick: Tick) -> Path:
        """The generated file in the cache, which is made if it is not there."""
        photographs = f"-frost-{digest_of(textures)}" if textures else ""
        folder = self._cache / f"{folder_name(clean.data)}-{SEMANTICS}-seed{seed}{photographs}"
        path = folder / f"{corruption}.npy"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / f".{corruption}.lock", tick):
                if not path.is_file():
                    write_corruption(clean, corruption, folder, seed=seed, textures=textures, tick=tick)
        return path


def frost_textures(folder: Path | None) -> list[Path]:
    """The photographs in `frost` below the folder of the data sets; none without such a folder. Raises InputError."""
    place = None if folder is None else folder / FROST
    return [] if place is None or not place.is_dir() else texture_files(place)


def write_corruption(
    clean: TestSet,
    corruption: str,
    folder: Path,
    *,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    textures: Sequence[Path] = (),
    tick: Tick = lambda: None,
) -> Path:
    """Corrupt the whole test set into `folder/NAME.npy`, complete or not at all, and write the labels; its path.

    With fewer than all severities, each is a file of its own, `NAME-SEVERITY.npy` (N, side, side, channels). A file
    that is there stays. Raises InputError, also where the folder holds anything else.
    """
    check_libraries()
    claim(folder, origin_of(clean.data.name, seed, textures))
    put(folder / LABELS, np.tile(clean.labels, len(SEVERITIES)))
    photographs = read_textures(textures, CIFAR.texture_scale, clean.data.size) if textures else None
    pictures = clean.pictures
    parts = [list(SEVERITIES)] if tuple(severities) == SEVERITIES else [[one] for one in severities]
    for part in parts:
        path = folder / (f"{corruption}.npy" if len(part) > 1 else f"{corruption}-{part[0]}.npy")
        if path.is_file():
            continue
        made = [
            corrupt(some, corruption, severity, places=places, seed=seed, textures=photographs)
            for severity in part
            for some, places in _batches(pictures, tick)
        ]
        put(path, np.concatenate(made))
    return path


def origin_of(data: str, seed: int, textures: Sequence[Path]) -> dict[str, Any]:
    """How a set is drawn."""
    frost = f"{PHOTOGRAPHS} {digest_of(textures)}" if textures else SYNTHETIC
    return {"data": data, "seed": seed, "semantics": SEMANTICS, "frost": frost}


def read_origin(folder: Path) -> dict[str, Any] | None:
    """How the set in the folder was drawn; None if it was not generated here. Raises InputError."""
    path = folder / ORIGIN
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"this can't be read: {error}", place=str(path)) from None
    return found


def claim(folder: Path, origin: Mapping[str, Any]) -> None:
    """Say in a folder how the set in it is drawn. Raises InputError if it holds anything else."""
    found = read_origin(folder)
    if found == origin:
        return
    if found is not None:
        told = ", ".join(f"{name} {value}" for name, value in found.items() if value != origin.get(name))
        raise InputError(f"this folder holds another set: {told}", place=str(folder), allowed="name another folder")
    if folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir()):
        problem = "this folder holds files that were not generated here"
        raise InputError(problem, place=str(folder), allowed="name a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ORIGIN, (json.dumps(origin) + "\n").encode(), tidy=True)


def _batches(pictures: np.ndarray, tick: Tick) -> Iterator[tuple[np.ndarray, range]]:
    for start in range(0, len(pictures), BATCH):
        tick()
        some = pictures[start : start + BATCH]
        yield some, range(start, start + len(some))


def put(path: Path, array: np.ndarray) -> None:
    """Write an array as `path`, complete or not at all; a file that is there stays."""
    if path.is_file():
        return
    with whole_file(path, tidy=True) as file:
        np.save(file, array)


@contextmanager
def _locked(path: Path, tick: Tick) -> Iterator[None]:
    """Of all processes only one is in here; the others call `tick` meanwhile. The lock goes with its process."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tick()
                time.sleep(PATIENCE)
            except OSError:  # this file system has no locks: two may make the same file, and both make it whole
                break
        yield
