"""One batch of images under one corruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from qsweep.sweeps.corruptions import CORRUPTIONS, SEVERITIES
from qsweep.sweeps.errors import InputError, nearest
from qsweep.workers.corruptions import blur, digital, noise, weather
from qsweep.workers.corruptions.constants import CIFAR, Constants
from qsweep.workers.corruptions.draws import generator
from qsweep.workers.corruptions.textures import synthetic_textures

APPLIED: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}


def corrupt(
    images: np.ndarray,
    corruption: str,
    severity: int,
    *,
    places: Sequence[int | str],
    seed: int = 0,
    constants: Constants = CIFAR,
    textures: tuple[np.ndarray, ...] | None = None,
) -> np.ndarray:
    """uint8 images (N, side, side, channels), of 1 or 3 channels, under `corruption` at `severity` 1 to 5; uint8.

    `places` names each image, by its number in the test set or its path: what is drawn for an image depends on that,
    the seed, the corruption and the severity, and on no other image. Values are cut down to whole ones, not rounded,
    as in the published sets: one that arithmetic left just below a whole number too. `textures` are photographs of
    frost, uint8 (height, width, 3); synthetic ones if there are none. Raises InputError for an unknown corruption or
    severity, and for a missing library.
    """
    check(corruption, severity)
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[1] != images.shape[2]
        or images.shape[3] not in (1, 3)
    ):
        raise InputError(
            f"{images.dtype} {images.shape} is no batch of images", allowed="allowed: uint8 (N, side, side, 1 or 3)"
        )
    draws = [generator(seed, corruption, severity, one) for one in places]
    assert len(draws) == len(images), "each image has a place"
    apply = _bound(corruption, constants, images.shape[1], textures)
    found = apply(images / 255.0, constants.at(corruption, severity), draws)
    return np.asarray(np.clip(found, 0, 1) * 255).astype(np.uint8)


def check(corruption: str, severity: int | None = None) -> None:
    """Raise InputError for an unknown corruption or severity."""
    if corruption not in CORRUPTIONS:
        raise InputError(
            f"there is no corruption {corruption!r}", place="corruption", allowed=nearest(corruption, CORRUPTIONS)
        )
    if severity is not None and severity not in SEVERITIES:
        allowed = "allowed: " + ", ".join(map(str, SEVERITIES))
        raise InputError(f"there is no severity {severity!r}", place="severity", allowed=allowed)


def _bound(
    corruption: str, constants: Constants, side: int, textures: tuple[np.ndarray, ...] | None
) -> Callable[..., np.ndarray]:
    """The corruption with what it takes beside the constants of a severity."""
    more: dict[str, Any] = {}
    if corruption == "frost":
        more["textures"] = synthetic_textures(constants.texture_scale) if textures is None else textures
    elif corruption == "fog":
        more["side"] = max(constants.fog_side, 1 << (side - 1).bit_length())
    elif corruption == "elastic_transform":
        more["scale"] = constants.elastic_scale or side
    return partial(APPLIED[corruption], **more)
