"""The files of FKD: of each training image many cuts, and what a teacher said of each.

The layout is that of the authors' code (github.com/szq0214/FKD): below the folder of a training set, `CLASS/IMAGE.tar`
holds three arrays as torch saves them: the cuts (N, 4) as top, left, height and width, of 1; whether each is flipped
(N); and the first k classes of each with their shares (N, 2, k).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.workers.data.targets import spread
from qsweep.workers.decoding.listing import TRAIN, Listing
from qsweep.workers.decoding.pixels import Boxes, seeded
from qsweep.workers.ordinary import check_ordinary

SUFFIX = ".tar"
BELOW = ("", TRAIN, f"imagenet/{TRAIN}", "imagenet")
"""Where the folders of classes lie below a folder of soft labels, as published. FKD's generator puts them below the
name of the data set's folder, `NAME/train`."""
SAMPLE = 64
"""Files of which the content is looked at before anything starts: opening all of ImageNet's would take an hour."""
AGREEING = 0.5
"""The least share of those whose class is among the first ones of their cuts: of other images it is chance."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """The cuts of one image: parts of 1 (N, 4), flips (N), their first classes (N, k) and the shares of these."""

    boxes: np.ndarray
    flipped: np.ndarray
    classes: np.ndarray
    shares: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def only(self, numbers: list[int]) -> Cuts:
        """Those of these numbers."""
        return Cuts(
            boxes=self.boxes[numbers],
            flipped=self.flipped[numbers],
            classes=self.classes[numbers],
            shares=self.shares[numbers],
        )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The cuts of a batch's images, and the share of each class (B · crops, classes), float32, in their order."""

    boxes: Boxes
    shares: Tensor


@dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """The soft labels of a training set with so many classes, below `root`."""

    root: Path
    classes: int

    def path(self, listing: Listing, place: int) -> Path:
        """The file of one image."""
        return self.root / f"{listing.name(place)}{SUFFIX}"

    def draw(self, listing: Listing, places: np.ndarray, count: int, counter: str) -> Drawn:
        """`count` cuts of each of the images at these places, each cut once: by the counter and the place alone. Raises
        InputError."""
        found = []
        for place in places.tolist():
            cuts = self.read(listing, place, count)
            found.append(cuts.only(seeded(f"{counter}/{place}").sample(range(len(cuts)), count)))
        boxes = Boxes(parts=np.stack([one.boxes for one in found]), flipped=np.stack([one.flipped for one in found]))
        classes, shares = (
            torch.from_numpy(np.concatenate([getattr(one, name) for one in found])) for name in ("classes", "shares")
        )
        return Drawn(boxes=boxes, shares=spread(classes, shares, self.classes))

    def read(self, listing: Listing, place: int, count: int) -> Cuts:
        """All cuts of one image. Raises InputError if they can't be read, or are fewer than `count`."""
        path = self.path(listing, place)
        cuts = read_cuts(path, self.classes)
        if len(cuts) < count:
            problem = f"it holds {len(cuts)} cuts, and {count} are taken of an image"
            raise InputError(problem, place=str(path), allowed=f"crops up to {len(cuts)}")
        return cuts


def find_soft_labels(folder: Path, name: str, listing: Listing, classes: int) -> SoftLabels:
    """The soft labels called `name` of the images of a training set. Raises InputError if they are not there."""
    first = os.path.dirname(listing.name(0))
    for below in (*BELOW, f"{folder.name}/{TRAIN}"):
        if (root := folder / name / below).joinpath(first).is_dir():
            return SoftLabels(root=root, classes=classes)
    raise InputError(
        f"the soft labels {name!r} of these images are not here",
        place=str(folder / name),
        allowed=f"put FKD's files there, {first}/IMAGE{SUFFIX} and so on, or name their folder: --set soft_labels=NAME",
    )


def check_soft_labels(soft: SoftLabels, listing: Listing, crops: int) -> None:
    """Raise InputError if a training image has no soft labels, or a sample of them is not of these images or of fewer
    cuts than `crops`."""
    missing = _missing(soft, listing)
    if missing:
        raise InputError(
            f"{len(missing)} of {len(listing)} training images have no soft labels, the first of them {missing[0]}",
            place=str(soft.root),
            allowed=f"a file CLASS/IMAGE{SUFFIX} for each",
        )
    agreeing, places = 0, sorted(random.Random(0).sample(range(len(listing)), min(SAMPLE, len(listing))))
    for place in places:
        cuts = soft.read(listing, place, crops)
        agreeing += bool((cuts.classes == listing.labels[place]).any(1).mean() >= AGREEING)
    if agreeing < AGREEING * len(places):
        raise InputError(
            f"these soft labels are of other images: of {len(places)} images, only {agreeing} have their class among "
            "the first of most of their cuts",
            place=str(soft.root),
            allowed="FKD's files of these images, with classes numbered in the order of their names",
        )


def read_cuts(path: Path, classes: int) -> Cuts:
    """The content of one file. Raises InputError if it can't be read, or is not of so many classes."""
    boxes, flipped, found = _arrays(path)
    sound = boxes.ndim == 2 and boxes.shape[1] == 4 and flipped.shape == (len(boxes),)
    if not sound or found.ndim != 3 or found.shape[:2] != (len(boxes), 2) or not 0 < found.shape[2] < classes:
        shapes = ", ".join(str(one.shape) for one in (boxes, flipped, found))
        raise InputError(
            f"its arrays are of shapes {shapes}",
            place=str(path),
            allowed=f"allowed: (N, 4), (N,) and (N, 2, k) with k below the {classes} classes",
        )
    numbers, shares = found[:, 0].astype(np.int64), found[:, 1].astype(np.float32)
    if not ((numbers >= 0) & (numbers < classes)).all():
        raise InputError(
            f"it names the class {int(numbers.max())} of {classes}", place=str(path), allowed=f"0 to {classes - 1}"
        )
    ends = boxes[:, :2] + boxes[:, 2:]
    if not ((boxes >= 0).all() and (ends <= 1 + 1e-3).all() and (shares >= 0).all() and (shares.sum(1) <= 1.01).all()):
        raise InputError("its cuts or shares are no parts of 1", place=str(path), allowed="0 to 1")
    return Cuts(boxes=boxes, flipped=flipped.astype(bool), classes=numbers, shares=shares)


def _missing(soft: SoftLabels, listing: Listing) -> list[str]:
    """The names of the images without a file, in order. Looks into each folder once."""
    found: dict[str, frozenset[str]] = {}
    missing = []
    for place in range(len(listing)):
        folder, file = os.path.split(listing.name(place))
        if folder not in found:
            below = soft.root / folder
            found[folder] = frozenset(os.listdir(below)) if below.is_dir() else frozenset()
        if f"{file}{SUFFIX}" not in found[folder]:
            missing.append(listing.name(place))
    return missing


def _arrays(path: Path) -> tuple[np.ndarray, ...]:
    """The three arrays of a file, which holds tensors or numpy's arrays. Nothing else is unpickled."""
    check_ordinary(path)
    try:
        with torch.serialization.safe_globals(_of_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True)
        boxes, flipped, found = (np.asarray(one) for one in content)
    except Exception as error:  # of a damaged file, torch's reader raises a dozen kinds of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"these soft labels can't be read: {reason}", place=str(path)) from None
    return boxes.astype(np.float64), flipped, found


def _of_numpy() -> list[Any]:
    """What an array of numpy is unpickled by, under the names of either of its versions."""
    kinds = [type(np.dtype(one)) for one in (np.float16, np.float32, np.float64, np.int64, np.bool_)]
    make: Any = np.empty(0).__reduce__()[0]
    both = [(make, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*both, np.ndarray, np.dtype, *kinds]
