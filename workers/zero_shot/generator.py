"""Genie's generator (Jeon et al. 2023, arXiv 2212.04780; SamsungLabs/Genie, `distill.py`): embeddings to images."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qsweep.workers.measures.draws import generator as draws_of

WIDE, NARROW = 128, 64
"""Channels of the first images and of those between the two doublings."""
SLOPE = 0.2
"""Of the leaky ReLU below zero."""
DOUBLING = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))
"""Which weights of a row of three meet a pixel at each of the four places that it reaches once it is doubled."""


def generator_modules(embedding_size: int, channels: int, side: int) -> nn.Sequential:
    """Images (B, channels, side, side) of embeddings (B, `embedding_size`).

    A linear layer to 128 channels of a quarter of the side, then twice a doubling of the side (nearest pixel) and a 3×3
    convolution, with batch norm before each and after all. Batch norm always takes the moments of its batch: images
    have mean 0 and variance 1 in each channel over the batch.
    """
    small = side // 4
    return nn.Sequential(
        nn.Linear(embedding_size, WIDE * small**2),
        nn.Unflatten(1, (WIDE, small, small)),
        nn.BatchNorm2d(WIDE, track_running_stats=False),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(WIDE, NARROW, 3, padding=1),
        nn.BatchNorm2d(NARROW, track_running_stats=False),
        nn.LeakyReLU(SLOPE),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(NARROW, channels, 3, padding=1),
        nn.Tanh(),
        nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
    )


class Generator:
    """The generator as a function of one row of all its parameters, which an optimizer moves as a whole."""

    def __init__(self, embedding_size: int, channels: int, side: int) -> None:
        modules = generator_modules(embedding_size, channels, side).to(device="meta")
        self._shapes = [one.shape for one in modules.parameters()]
        self._given, self._small = (embedding_size, channels, side), side // 4

    def initial(self, seed: int, batch: int) -> Tensor:
        """The parameters (1, P) that the generator of this batch begins with, as PyTorch initializes (CPU, float32)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws_of(seed, "generator", batch).initial_seed())
            modules = generator_modules(*self._given)
        return torch.cat([one.detach().flatten() for one in modules.parameters()])[None]

    def __call__(self, row: Tensor, embeddings: Tensor) -> Tensor:
        """Images (B, channels, side, side) of parameters (1, P) and embeddings (B, E)."""
        parts = torch.split(row[0], [shape.numel() for shape in self._shapes])
        named = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        linear, first, narrow, second, last = zip(named[::2], named[1::2], strict=True)  # weights and biases
        images = F.linear(embeddings, *linear).view(-1, WIDE, self._small, self._small)
        images = doubled(F.batch_norm(images, None, None, *first, training=True), *narrow)
        images = F.leaky_relu(F.batch_norm(images, None, None, *second, training=True), SLOPE)
        return F.batch_norm(doubled(images, *last).tanh(), None, None, training=True)


def doubled(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 3×3 convolution (B, O, 2·side, 2·side), with zeros around, of images (B, C, side, side) that were doubled to
    the nearest pixel.

    As a transposed convolution of stride 2: what it sees of one pixel of the images is summed in the kernel, which has
    16 products a pixel and pair of channels then where the doubled image takes 36.
    """
    outputs, channels = weight.shape[:2]
    kernel = weight.reshape(outputs * channels, 9) @ _doubling(weight.dtype, weight.device)
    kernel = kernel.view(outputs, channels, 4, 4).transpose(0, 1)
    return F.conv_transpose2d(images, kernel, bias, stride=2, padding=1)


@cache
def _doubling(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What makes a 4×4 kernel (16) of a 3×3 one (9)."""
    rows = torch.tensor(DOUBLING, dtype=dtype, device=device)
    return torch.kron(rows, rows).t().contiguous()


def initial_embeddings(seed: int, batch: int, count: int, size: int) -> Tensor:
    """Standard normal embeddings (count, size) of one batch (CPU, float32)."""
    return torch.randn(count, size, generator=draws_of(seed, "embedding", batch))
