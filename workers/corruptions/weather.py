"""Weather: snow, frost, fog, and the light of another hour."""

from __future__ import annotations

import numpy as np

from qsweep.workers.corruptions.blur import line_kernel, moved, zoomed
from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.noise import Draws

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
TEXTURES = 5
"""Of the six published photographs of frost the original code only ever draws the first five."""


def snow(images: np.ndarray, settings: tuple[float, ...], draws: Draws) -> np.ndarray:
    """A layer of flakes and the same turned by 180° over an image that is made paler.

    `settings`: mean and deviation of the flakes' noise, its zoom, the value below which there is no flake, radius and
    σ of its motion blur at an angle of −135° to −45°, and the share that the image keeps of itself.
    """
    mean, deviation, zoom, threshold, radius, sigma, kept = settings
    side = images.shape[1]
    layers = np.stack([one.normal(mean, deviation, size=(side, side, 1)) for one in draws])
    layers = zoomed(layers, zoom)
    layers[layers < threshold] = 0
    layers = np.floor(np.clip(layers, 0, 1) * 255) / 255
    kernels = [line_kernel(int(radius), sigma, one.uniform(-135, -45)) for one in draws]
    layers = moved(layers, kernels)
    pale = np.maximum(images, grey(images) * 1.5 + 0.5)
    return np.asarray(kept * images + (1 - kept) * pale + layers + np.rot90(layers, 2, axes=(1, 2)))


def grey(images: np.ndarray) -> np.ndarray:
    """The luminance (N, side, side, 1) of images of three channels, or of one, which is theirs."""
    return images if images.shape[-1] == 1 else (images @ np.array(LUMINANCE))[..., None]


def frost(
    images: np.ndarray, settings: tuple[float, float], draws: Draws, textures: tuple[np.ndarray, ...]
) -> np.ndarray:
    """a·x + b·frost, with a piece of one of the first five `textures` (uint8 (height, width, 3)).

    Counted in units of 1/255 and cut there, as in the published code: a whole number stays one.
    """
    share, cover = settings
    pieces = np.stack([_piece(textures[:TEXTURES], images.shape[1], one) for one in draws]).astype(np.float64)
    blended = share * np.rint(images * 255) + cover * (grey(pieces) if images.shape[-1] == 1 else pieces)
    return np.asarray(np.floor(np.clip(blended, 0, 255)) / 255)


def _piece(textures: tuple[np.ndarray, ...], side: int, draw: np.random.Generator) -> np.ndarray:
    texture = textures[draw.integers(len(textures))]
    top, left = (int(draw.integers(0, length - side)) for length in texture.shape[:2])
    return texture[top : top + side, left : left + side]


def fog(images: np.ndarray, settings: tuple[float, float], draws: Draws, side: int) -> np.ndarray:
    """(x + c·map)·m/(m + c), m the image's largest value, with a `plasma` of this `side` cut to the image."""
    cover, decay = settings
    largest = images.max(axis=(1, 2, 3), keepdims=True)
    maps = plasma(side, decay, draws)[:, : images.shape[1], : images.shape[1], None]
    return np.asarray((images + cover * maps) * largest / (largest + cover))


def plasma(side: int, decay: float, draws: Draws) -> np.ndarray:
    """Clouds of the diamond-square algorithm on a torus (N, side, side) in [0, 1]; `side` is a power of two.

    At each halving of the grid a new point is the mean of its four neighbours plus w·U(−w, w), w = 100 at first and
    divided by `decay` each time.
    """
    drawn = [one.uniform(-1, 1, size=side**2 - 1) for one in draws]
    noise = np.stack(drawn)
    clouds = np.zeros((len(noise), side, side))
    step, roughness, used = side, 100.0, 0

    def displaced(total: np.ndarray) -> np.ndarray:
        nonlocal used
        first, used = used, used + total[0].size
        return total / 4 + roughness**2 * noise[:, first:used].reshape(total.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        centres = displaced(total + np.roll(total, -1, axis=2))
        clouds[:, half::step, half::step] = centres
        above = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        clouds[:, ::step, half::step] = displaced(above)
        beside = centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        clouds[:, half::step, ::step] = displaced(beside)
        step, roughness = half, roughness / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return np.asarray(clouds / clouds.max(axis=(1, 2), keepdims=True))


def brightness(images: np.ndarray, more: float, draws: Draws) -> np.ndarray:
    """The value of HSV raised by this much, at most to 1. Of one channel, that is the grey itself."""
    if images.shape[-1] == 1:
        return np.clip(images + more, 0, 1)
    color = library("skimage.color")
    tones = color.rgb2hsv(images)
    tones[..., 2] = np.clip(tones[..., 2] + more, 0, 1)
    return np.asarray(color.hsv2rgb(tones))
