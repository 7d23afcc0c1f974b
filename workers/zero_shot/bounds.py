"""The images that synthetic ones are held against: noise, and the training's own."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Noise, RealImages
from qsweep.workers.data import Part, Source
from qsweep.workers.measures.draws import generator as draws_of

AT_ONCE = 128


def draw_noise(asked: Noise, training: Training) -> Tensor:
    """Standard normal images (N, channels, side, side)."""
    data = training.data
    shape = (asked.image_count, data.channels, data.size, data.size)
    return torch.randn(shape, generator=draws_of(asked.image_seed, "noise images"))


def draw_real(asked: RealImages, source: Source) -> Tensor:
    """Training images (N, channels, side, side) at random, without repetition, not augmented."""
    order = torch.randperm(len(source.labels(Part.TRAIN)), generator=draws_of(asked.image_seed, "real images"))
    return torch.cat([images.cpu() for images, _ in source.chosen(order[: asked.image_count], AT_ONCE)])
