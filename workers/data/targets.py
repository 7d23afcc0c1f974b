"""What models should say of the images of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Labels int64 (B), and where the targets are soft the share of each class (B, classes): the shares of an image add
    up to 1. Hits are counted by the labels, whatever the targets."""

    labels: Tensor
    shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: slice) -> Targets:
        return Targets(labels=self.labels[places], shares=None if self.shares is None else self.shares[places])

    def split(self, size: int) -> Iterator[Targets]:
        """Those of up to `size` images after another."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def clone(self) -> Targets:
        """The same in memory of its own."""
        return Targets(labels=self.labels.clone(), shares=None if self.shares is None else self.shares.clone())

    def copy_(self, other: Targets) -> None:
        """Take the values of another batch of the same size."""
        self.labels.copy_(other.labels)
        if self.shares is not None and other.shares is not None:
            self.shares.copy_(other.shares)


def spread(places: Tensor, shares: Tensor, classes: int) -> Tensor:
    """Shares (B, classes) of all classes: those at `places` (B, k) have `shares` (B, k), the others what is left of 1,
    evenly."""
    rest = (1 - shares.sum(1, keepdim=True)).clamp_(min=0) / (classes - shares.shape[1])
    spread_out = rest.repeat(1, classes)
    spread_out[torch.arange(len(places), device=places.device)[:, None], places] = shares
    return spread_out


def first_shares(logits: Tensor, first: int) -> Tensor:
    """softmax of logits (classes, B) as shares (B, classes), of which those of the `first` classes are kept and the
    rest is spread."""
    shares, places = torch.topk(logits.softmax(0).T, first, dim=1)
    return spread(places, shares, len(logits))
