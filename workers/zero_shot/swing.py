"""Genie's swing convolution: the input of a strided convolution is shifted by up to a pixel, anew in each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from qsweep.workers.measures.draws import generator as draws_of

Shift: TypeAlias = tuple[int, int]
"""Where an image with a margin of one reflected pixel is cut, down and across: 0, 1 (not shifted) or 2."""


def draw_shifts(seed: int, batch: int, iteration: int, count: int) -> Sequence[Shift]:
    """The shifts of so many strided convolutions in one iteration, each uniform over the nine places."""
    drawn = torch.randint(3, (count, 2), generator=draws_of(seed, "swing", batch, iteration))
    return [(down, across) for down, across in drawn.tolist()]


def swung(images: Tensor, shift: Shift) -> Tensor:
    """Images (B, C, side, side) with a margin of one reflected pixel, cut to their size at `shift`.

    Put together from slices, whose gradient is the same in every run: that of PyTorch's padding is not, on a GPU. An
    image of one pixel has nothing to reflect and stays.
    """
    if images.shape[-1] == 1:
        return images
    down, across = shift
    return _moved(_moved(images, 2, down), 3, across)


def _moved(images: Tensor, dimension: int, place: int) -> Tensor:
    side = images.shape[dimension]
    if place == 1:
        return images
    if place == 0:
        parts = (images.narrow(dimension, 1, 1), images.narrow(dimension, 0, side - 1))
    else:
        parts = (images.narrow(dimension, 1, side - 1), images.narrow(dimension, side - 2, 1))
    return torch.cat(parts, dimension)
