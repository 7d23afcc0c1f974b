"""Random numbers of a search, from counters: equal for equal (seed, purpose, counters), whatever came before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A generator on the CPU of its own for this purpose and these counters."""
    text = "/".join(str(part) for part in (seed, purpose, *counters))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def gaussian(seed: int, iteration: int, copies: int, length: int) -> Tensor:
    """Standard normal noise (copies, length) of one candidate, float32. Models of a cohort share it."""
    noise = torch.empty(copies, length)
    for copy, row in enumerate(noise):
        row.normal_(generator=generator(seed, "noise", iteration, copy))
    return noise


def uniform(seed: int, iteration: int, copies: int, length: int) -> Tensor:
    """Uniform numbers (copies, length) in [−1, 1) of one candidate's starts, float32."""
    starts = torch.empty(copies, length)
    for copy, row in enumerate(starts):
        row.uniform_(-1, 1, generator=generator(seed, "start", iteration, copy))
    return starts


def radii(seed: int, iteration: int, copies: int) -> Tensor:
    """Uniform numbers (copies) in [0, 1) that place starts between a ball's centre and its surface."""
    return torch.rand(copies, generator=generator(seed, "radius", iteration))


def places(seed: int, iteration: int, step: int, size: int, images: int) -> Tensor:
    """Which of the training images one step of an ascent sees, without repetition (size or all)."""
    return torch.randperm(images, generator=generator(seed, "ascent", iteration, step))[:size]


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` places of images (0: all), class by class in turn, the same for a seed; sorted."""
    if not count or count >= len(labels):
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=generator(seed, "sample"))
    drawn = labels[order]
    turn = torch.zeros_like(order)
    for label in torch.arange(int(labels.max()) + 1):
        mine = drawn == label
        turn[mine] = torch.arange(int(mine.sum()))
    rank = torch.argsort(turn * (int(labels.max()) + 1) + drawn)
    return order[rank[:count]].sort().values
