"""Textures of frost: photographs that the user names, or synthetic ones.

The published sets blend photographs that are not ours to ship. The synthetic ones are ridges of fractal clouds at
three sizes, bright on bluish grey: they cover an image with bright crystalline edges, and are no photographs.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsweep.sweeps.errors import InputError
from qsweep.workers.corruptions.draws import generator
from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.weather import TEXTURES, plasma
from qsweep.workers.ordinary import check_ordinary

SIDE = 1024
"""Of a synthetic texture, in pixels."""
SIZES = (1, 2, 4)
"""How many times smaller the crystals of each layer are."""
SHADE, LIGHT = np.array([78.0, 92.0, 108.0]), np.array([236.0, 242.0, 248.0])
"""Red, green and blue between and on the crystals."""
SUFFIXES = (".png", ".jpg", ".jpeg")


@functools.cache
def synthetic_textures(scale: float) -> tuple[np.ndarray, ...]:
    """Five textures (uint8 (SIDE·scale, SIDE·scale, 3)), always the same."""
    return tuple(_scaled(_synthetic(number), scale) for number in range(TEXTURES))


def read_textures(files: Sequence[Path], scale: float, side: int) -> tuple[np.ndarray, ...]:
    """These pictures, reduced by `scale`. Raises InputError for one from which no piece of `side` can be cut."""
    pictures = []
    for file in files:
        try:
            with library("PIL.Image").open(file) as picture:
                texture = _scaled(np.asarray(picture.convert("RGB")), scale)
        except OSError as error:
            raise InputError(f"this picture can't be read: {error}", place=str(file)) from None
        if min(texture.shape[:2]) <= side:
            raise InputError(
                f"{texture.shape[1]}×{texture.shape[0]} pixels (after scaling by {scale:g}) are too few",
                place=str(file),
                allowed=f"allowed: more than {side} a side",
            )
        pictures.append(texture)
    return tuple(pictures)


def texture_files(folder: Path) -> list[Path]:
    """The pictures of a folder that are drawn from: in the order of their names the first five.

    Raises InputError if there is none.
    """
    try:
        files = sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"this folder can't be read: {error.strerror}", place=str(folder)) from None
    for one in files[:TEXTURES]:
        check_ordinary(one)
    if not files:
        raise InputError(
            "there is no picture of frost here", place=str(folder), allowed="allowed: " + ", ".join(SUFFIXES)
        )
    return files[:TEXTURES]


def digest_of(files: Sequence[Path]) -> str:
    """8 hex digits of the hash of the files' contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _scaled(texture: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return texture
    scaled: np.ndarray = library("cv2").resize(texture, (0, 0), fx=scale, fy=scale)
    return scaled


def _synthetic(number: int) -> np.ndarray:
    """Clouds are bright where they pass their middle (1 − |2·cloud − 1|, sharpened): the brightest of the sizes."""
    layers = []
    for size in SIZES:
        draws = [generator(0, "frost texture", size, number)]
        ridges = 1 - np.abs(2 * plasma(SIDE // size, 1.6, draws)[0] - 1)
        layers.append(np.tile(ridges**6, (size, size)) * (0.6 + 0.4 / size))
    ice = np.maximum.reduce(layers)[..., None]
    return np.asarray(SHADE + (LIGHT - SHADE) * ice, dtype=np.uint8)
