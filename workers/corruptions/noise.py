"""Noise: Gaussian, shot and impulse. Each adds what an image's own generator draws.

Here and in the modules beside: images are float64 (N, side, side, channels) in [0, 1] with 1 or 3 channels, `draws` has
the generator of each image, and what is returned is not yet clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsweep.workers.corruptions.libraries import library

Draws = Sequence[np.random.Generator]


def gaussian_noise(images: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    """x + N(0, σ²), of each channel apart."""
    return images + np.stack([one.normal(scale=sigma, size=images.shape[1:]) for one in draws])


def shot_noise(images: np.ndarray, photons: float, draws: Draws) -> np.ndarray:
    """Poisson(x·c)/c: what a sensor counts that gets c photons from white."""
    return np.stack([one.poisson(image * photons) for one, image in zip(draws, images, strict=True)]) / photons


def impulse_noise(images: np.ndarray, amount: float, draws: Draws) -> np.ndarray:
    """Salt and pepper: this share of all values becomes 0 or 1, each as likely."""
    random_noise = library("skimage.util").random_noise
    return np.stack(
        [random_noise(image, mode="s&p", rng=one, amount=amount) for one, image in zip(draws, images, strict=True)]
    )
