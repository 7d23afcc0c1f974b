"""How many images perturbed models get right: a batch of models over the same images, counted on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.forms import SMALL_IMAGE
from workers.measures.inference import Inference, InTurn, SideBySide


class Examinees:
    """Images (S, channels, side, side, standardized) and labels (S) that models of one shape are judged by."""

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._count = len(labels)
        in_turn = not images.is_cuda and images.shape[-1] ** 2 > SMALL_IMAGE
        self._inference: Inference = (InTurn if in_turn else SideBySide)(network, images, labels)

    def __len__(self) -> int:
        return self._count

    def together(self, copies: int) -> int:
        """How many models with `copies` copies each are best judged in one pass."""
        return self._inference.together(copies)

    @torch.no_grad()
    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        """Images that each of the models in `rows` (M, P, their weights as deployed) gets right (M, int64)."""
        return self._inference.hits(rows, statistics)
