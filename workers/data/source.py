"""Where a training's images come from, whatever holds them: the memory, or their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from qsweep.workers.data.targets import Targets


class Part(StrEnum):
    """What the images of a part are for: to be trained on, to be tested on, or held out for validation."""

    TRAIN = "train"
    TEST = "test"
    VAL = "val"


class Source(Protocol):
    """The images of one training on its device, standardized per channel in the working precision.

    Order and augmentation depend on `data_seed`, the epoch and the step alone: any step may be asked for first.
    """

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that have images, in the order of `Part`."""

    def labels(self, part: Part) -> Tensor:
        """Labels int64 (N) of a part, in its order."""

    def open(self, epoch: int) -> None:
        """Begin an epoch (from 0)."""

    def batch(self, number: int) -> tuple[Tensor, Targets]:
        """Images (B, channels, side, side) and what should be said of them, of one step of the open epoch. The crops of
        one image follow one another."""

    def passes(self, part: Part, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of a part and their labels, not augmented, up to `size` at a time."""

    def chosen(self, places: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images at these places, not augmented, up to `size` at a time."""

    def close(self) -> None:
        """Let go of what it holds beside memory."""


def epoch_generator(data_seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one purpose of one epoch."""
    counter = f"{data_seed}/{epoch}/{purpose}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(counter).digest()[:7], "big"))
