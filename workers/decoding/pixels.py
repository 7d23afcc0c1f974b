"""One image file as pixels, cut to size: for training at a random place, for evaluation from its middle.

Pillow decodes and resizes, by libjpeg-turbo and its own filters. It is what torchvision's transforms call, so an
evaluation sees the pixels by which published weights were judged; OpenCV and torchvision's own decoder take about as
long (of an image of 500×375 pixels, decoded, cut and resized on one core: Pillow 2.5 ms, torchvision 2.5 ms, OpenCV
2.0 ms by another filter), and Pillow comes with torchvision and timm wherever these are.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.corruptions.files import check_size
from qsweep.workers.ordinary import check_ordinary

LARGER = 256 / 224
"""How much longer than the cut an image's shorter side is made before it."""
AREA = (0.08, 1.0)
"""Share of an image's area that a random crop takes."""
SHAPE = (3 / 4, 4 / 3)
"""Width of a random crop over its height."""
ATTEMPTS = 10
"""Crops that are drawn before the largest one in the middle is taken."""


class BrokenImage(InputError):
    """An image file can't be decoded."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Part of an image, in its pixels, and whether it is flipped left to right."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Cuts of images that were drawn before: top, left, height and width as parts of 1 (B, crops, 4), and flips (B,
    crops)."""

    parts: np.ndarray
    flipped: np.ndarray

    def __getitem__(self, places: slice) -> Boxes:
        return Boxes(parts=self.parts[places], flipped=self.flipped[places])

    def cuts(self, image: int, width: int, height: int) -> list[Cut]:
        """Those of one image of that size, in its pixels, rounded as Pillow rounds a box."""
        found = []
        for (top, left, down, across), flipped in zip(self.parts[image].tolist(), self.flipped[image], strict=True):
            first, upper = min(round(left * width), width - 1), min(round(top * height), height - 1)
            last, lower = round((left + across) * width), round((top + down) * height)
            size = {"width": max(1, last - first), "height": max(1, lower - upper)}
            found.append(Cut(left=first, top=upper, flipped=bool(flipped), **size))
        return found


def seeded(counter: str) -> random.Random:
    """Random numbers that depend on a counter alone."""
    return random.Random(int.from_bytes(hashlib.sha256(counter.encode()).digest()[:16], "big"))


def draw_cut(width: int, height: int, counter: str) -> Cut:
    """A crop of random size, shape and place, and a fair flip, as torchvision's RandomResizedCrop draws them.

    They depend on the image's size and the counter alone.
    """
    draw = seeded(counter)
    flipped = draw.random() < 0.5
    low, high = (math.log(one) for one in SHAPE)
    for _ in range(ATTEMPTS):
        area = width * height * draw.uniform(*AREA)
        shape = math.exp(draw.uniform(low, high))
        across, down = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < across <= width and 0 < down <= height:
            top, left = draw.randint(0, height - down), draw.randint(0, width - across)
            return Cut(left=left, top=top, width=across, height=down, flipped=flipped)
    across, down = width, height
    if width / height < SHAPE[0]:
        down = round(width / SHAPE[0])
    elif width / height > SHAPE[1]:
        across = round(height * SHAPE[1])
    return Cut(left=(width - across) // 2, top=(height - down) // 2, width=across, height=down, flipped=flipped)


def training_pixels(path: Path, side: int, cuts: Callable[[int, int], Sequence[Cut]]) -> list[np.ndarray]:
    """Pixels (3, side, side), uint8, of each of the `cuts` of an image of its width and height, which is decoded once.
    Raises BrokenImage."""
    image = _decoded(path)
    return [_cut_out(image, cut, side) for cut in cuts(image.width, image.height)]


def _cut_out(image: Any, cut: Cut, side: int) -> np.ndarray:
    box = (cut.left, cut.top, cut.left + cut.width, cut.top + cut.height)
    pixels = _planes(image.crop(box).resize((side, side), _filter()))
    return np.ascontiguousarray(pixels[:, :, ::-1]) if cut.flipped else pixels


def evaluation_pixels(path: Path, side: int) -> np.ndarray:
    """Pixels (3, side, side), uint8, of the middle of the image, as torchvision's Resize and CenterCrop cut it:
    256 and 224, or in that proportion. Raises BrokenImage."""
    image = _decoded(path)
    width, height = image.size
    short = round(side * LARGER)
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (round((one - side) / 2) for one in size)
    return _planes(image.resize(size, _filter()).crop((left, top, left + side, top + side)))


def stored_pixels(path: Path, side: int) -> np.ndarray:
    """Pixels (3, side, side), uint8, of an image that was cut before.

    Raises BrokenImage, or InputError if it has another size.
    """
    image = _decoded(path)
    check_size(image.size, side, path)
    return _planes(image)


def _decoded(path: Path) -> Any:
    """The whole image in RGB. Any damage shows here."""
    try:
        from PIL import Image
    except ImportError:
        raise QsweepError("image files are decoded by Pillow: pip install pillow") from None
    check_ordinary(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise BrokenImage(
            f"this image can't be decoded: {reason}",
            place=str(path),
            allowed="copy it again, or leave such images out with: --set corrupt=skip",
        ) from None


def _filter() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def _planes(image: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
