"""The corruptions of test images a sweep may name (Hendrycks & Dietterich 2019, arXiv 1903.12261).

What they do to an image stands under the same names in `workers.corruptions`.
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The 15 corruptions in the order of the paper's tables, by kind."""
CORRUPTIONS: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
CORRUPTED: tuple[str, ...] = ("digits", "cifar10", "cifar100", "imagenet", "imagefolder")
"""The data sets that distortions are measured on. The corrupted test sets of the first three are arrays, one file a
corruption; those of the others are trees of image files."""
LARGEST = 1023
"""Pixels a side of the largest images that are corrupted: they have to fit into a texture of frost."""
