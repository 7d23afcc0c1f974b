"""Genie's generator (Jeon et al. 2023, arXiv 2212.04780; SamsungLabs/Genie, `distill.py`): embeddings to images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qsweep.workers.measures.draws import generator as draws_of

WIDE, NARROW = 128, 64
"""Channels of the first images and of those between the two doublings."""


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
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(NARROW, channels, 3, padding=1),
        nn.Tanh(),
        nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
    )


class Generator:
    """The generator as a function of one row of all its parameters, which an optimizer moves as a whole."""

    def __init__(self, embedding_size: int, channels: int, side: int) -> None:
        self._modules = generator_modules(embedding_size, channels, side).to(device="meta")
        self._shapes = {name: one.shape for name, one in self._modules.named_parameters()}
        self._given = (embedding_size, channels, side)

    def initial(self, seed: int, batch: int) -> Tensor:
        """The parameters (1, P) that the generator of this batch begins with, as PyTorch initializes (CPU, float32)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws_of(seed, "generator", batch).initial_seed())
            modules = generator_modules(*self._given)
        return torch.cat([one.detach().flatten() for one in modules.parameters()])[None]

    def __call__(self, row: Tensor, embeddings: Tensor) -> Tensor:
        """Images (B, channels, side, side) of parameters (1, P) and embeddings (B, E)."""
        parts = torch.split(row[0], [shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}
        images: Tensor = functional_call(self._modules, named, (embeddings,))
        return images


def initial_embeddings(seed: int, batch: int, count: int, size: int) -> Tensor:
    """Standard normal embeddings (count, size) of one batch (CPU, float32)."""
    return torch.randn(count, size, generator=draws_of(seed, "embedding", batch))
