"""How models are judged by images: the one count of hits and the one sum of cross-entropies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.workers.forms import LARGE_IMAGE

Batch = TypeVar("Batch")

EVALUATION_BATCH = 256
"""Images of one pass in evaluation mode: part of the numerics, so it is not a setting."""
LARGE_EVALUATION_BATCH = 64
"""The same for large images."""


def evaluation_batch(data: DataSet) -> int:
    """Images of one pass in evaluation mode."""
    return LARGE_EVALUATION_BATCH if data.size**2 > LARGE_IMAGE else EVALUATION_BATCH


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of each model over some images: the sum of its cross-entropies (M, float64, nats) and its hits (M, int64)."""

    losses: Tensor | None
    """None where nobody asked for them."""
    hits: Tensor
    images: int

    @property
    def sums(self) -> Tensor:
        """`losses`, where they were asked for."""
        assert self.losses is not None
        return self.losses

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of each model (M, float64, nats)."""
        return self.sums / self.images

    @property
    def accuracy(self) -> Tensor:
        """Share of the images that each model gets right (M, float64)."""
        return self.hits.double() / self.images


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """−log softmax(logits)[label]: (M, B) from logits (M, classes, B) and labels (B).

    With `smoothing` s it is (1 − s) of that and s of the mean over the classes, as `torch.nn.CrossEntropyLoss` has it.
    The label's is picked by a mask: in a fixed order, a GPU waits for the host in the gradient of `gather`.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    logarithms = logits.log_softmax(1)
    found = -torch.where(classes[:, None] == labels, logarithms, 0.0).sum(1)
    return found * (1 - smoothing) - logarithms.mean(1) * smoothing if smoothing else found


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """−Σ share · log softmax(logits) over the classes: (M, B) from logits (M, classes, B) and shares (B, classes)."""
    return -(shares.T * logits.log_softmax(1)).sum(1)


def tally(
    logits_of: Callable[[Batch], Tensor],
    batches: Iterable[tuple[Batch, Tensor]],
    models: int,
    device: torch.device,
    *,
    losses: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> Tally:
    """What becomes of M models over some batches, each with its labels (B), of which `logits_of` makes logits (M,
    classes, B). `losses` says whether cross-entropies are wanted. Calls `tick` after each batch."""
    total = torch.zeros(models, dtype=torch.float64, device=device) if losses else None
    hits = torch.zeros(models, dtype=torch.int64, device=device)
    images = 0
    for batch, labels in batches:
        logits = logits_of(batch)
        if total is not None:
            total += cross_entropy(logits, labels).sum(1, dtype=torch.float64)
        hits += (logits.argmax(1) == labels).sum(1)
        images += len(labels)
        tick()
    return Tally(losses=total, hits=hits, images=images)
