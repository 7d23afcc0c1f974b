"""Blur: of an unfocused lens, behind frosted glass, of a moving camera, and of one that zooms."""

from __future__ import annotations

import functools
import math

import numpy as np

from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.noise import Draws

NEAREST = "nearest"


def defocus_blur(images: np.ndarray, settings: tuple[float, float], draws: Draws) -> np.ndarray:
    """Convolution with a disk (`disk_kernel`), the image mirrored about its outermost pixels."""
    return _filtered(images, [disk_kernel(*settings)] * len(images), library("cv2").BORDER_REFLECT_101)


def disk_kernel(radius: float, alias: float) -> np.ndarray:
    """A disk of this radius with sum 1 (float32), smoothed by a Gaussian of deviation `alias`.

    The smoothing mirrors at the frame, so that a disk that touches it (radius 8 and more) sums up to 1.01.
    """
    cv2 = library("cv2")
    reach, size = (8, 3) if radius <= 8 else (radius, 5)
    line = np.arange(-reach, reach + 1)
    disk = (np.square(line)[:, None] + np.square(line)[None] <= radius**2).astype(np.float32)
    kernel: np.ndarray = cv2.GaussianBlur(disk / disk.sum(), ksize=(size, size), sigmaX=alias)
    return kernel


def glass_blur(images: np.ndarray, settings: tuple[float, int, int], draws: Draws) -> np.ndarray:
    """Gaussian blur, then pixels replaced by near ones, then Gaussian blur again.

    Pixels are gone through from the lower right, all but a margin, and each becomes a copy of one up to δ before it
    and below δ behind it. The original code means to swap the two; what it does, through views, is to copy.
    """
    sigma, reach, iterations = settings
    gaussian = library("scipy.ndimage").gaussian_filter
    deviations = (0, sigma, sigma, 0)
    shuffled = (gaussian(images, deviations, mode=NEAREST) * 255).astype(np.uint8)
    count, side = len(images), images.shape[1]
    line = range(side - reach, reach, -1)
    moves = np.stack([one.integers(-reach, reach, size=(iterations, len(line) ** 2, 2)) for one in draws])
    every = np.arange(count)
    for iteration in range(iterations):
        for place, (row, column) in enumerate((row, column) for row in line for column in line):
            across, down = moves[:, iteration, place].T
            shuffled[:, row, column] = shuffled[every, row + down, column + across]
    return np.asarray(gaussian(shuffled / 255.0, deviations, mode=NEAREST))


def motion_blur(images: np.ndarray, settings: tuple[int, float], draws: Draws) -> np.ndarray:
    """The blur of ImageMagick along a line at an angle of −45° to 45°, rounded to 8 bits as its images are."""
    kernels = [line_kernel(*settings, one.uniform(-45, 45)) for one in draws]
    return moved(images, kernels)


def moved(images: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """Each image blurred by its kernel, its border repeated, rounded to 8 bits; in [0, 1]."""
    blurred = _filtered(images * 255, kernels, library("cv2").BORDER_REPLICATE)
    return np.floor(blurred + 0.5) / 255


def line_kernel(radius: int, sigma: float, angle: float) -> np.ndarray:
    """Half a Gaussian along a line at `angle` degrees: 2·radius + 1 weights, the first at the centre, sum 1.

    As ImageMagick's MotionBlurImage has it, each weight stands on the nearest pixel.
    """
    places = np.arange(2 * radius + 1)
    weights = np.exp(-np.square(places) / (2 * sigma**2))
    turn = math.radians(angle)
    across = np.ceil(places * math.cos(turn) - 0.5).astype(int)
    down = np.ceil(places * math.sin(turn) - 0.5).astype(int)
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (2 * radius + down, 2 * radius + across), weights / weights.sum())
    return kernel


def zoom_blur(images: np.ndarray, settings: tuple[float, float], draws: Draws) -> np.ndarray:
    """The mean of the image and of its centre at every zoom factor 1, 1 + step, …, end.

    The factors are `np.arange(1, end, step)`, whose rounding decides whether the end is one of them; the image
    itself counts once more beside the factor 1. All sums are float32, as those of the published code.
    """
    factors = np.arange(1, *settings)
    total = np.zeros(images.shape, dtype=np.float32)
    for factor in factors:
        total += zoomed(images.astype(np.float32), float(factor))
    return np.asarray((images.astype(np.float32) + total) / np.float32(len(factors) + 1))


def zoomed(images: np.ndarray, factor: float) -> np.ndarray:
    """The centre of each image, ⌈side/factor⌉ pixels wide, enlarged by linear interpolation and cut to the side.

    As SciPy does, it is computed in double precision and returned in that of the images.
    """
    lines = _interpolation(images.shape[1], factor)
    found = np.einsum("ai,nijc,bj->nabc", lines, images.astype(np.float64), lines, optimize=True)
    return np.asarray(found.astype(images.dtype))


@functools.cache
def _interpolation(side: int, factor: float) -> np.ndarray:
    """What each pixel of a zoomed line takes of each pixel of the line (side, side): scipy's zoom of unit vectors."""
    width = math.ceil(side / factor)
    first = (side - width) // 2
    enlarged = library("scipy.ndimage").zoom(np.eye(width), (factor, 1), order=1)
    trimmed = (len(enlarged) - side) // 2
    lines = np.zeros((side, side))
    lines[:, first : first + width] = enlarged[trimmed : trimmed + side]
    return lines


def _filtered(images: np.ndarray, kernels: list[np.ndarray], border: int) -> np.ndarray:
    """Each image correlated with its kernel."""
    cv2 = library("cv2")
    found = [cv2.filter2D(one, -1, kernel, borderType=border) for one, kernel in zip(images, kernels, strict=True)]
    return np.stack(found).reshape(images.shape)  # OpenCV drops a single channel
