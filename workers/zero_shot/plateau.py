"""The learning rate of the embeddings: PyTorch's `ReduceLROnPlateau`, decided on the device without a look at it."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR, PATIENCE, LEAST = 0.1, 100, 1e-4
"""Genie's (`distill.py`); what follows is PyTorch's default."""
THRESHOLD, SMALLEST_CHANGE = 1e-4, 1e-8


class Plateau:
    """A rate that falls to a tenth after more than 100 steps without a better loss, down to 1e-4.

    `state` (3, float64): the rate, the best loss so far, and the steps since then.
    """

    def __init__(self, rate: float, device: torch.device) -> None:
        self.state = torch.tensor([rate, torch.inf, 0.0], dtype=torch.float64, device=device)

    @property
    def rate(self) -> Tensor:
        """The rate of the next step (float64, one number)."""
        return self.state[0]

    def step(self, loss: Tensor) -> None:
        """A step has led to this loss (one number)."""
        rate, best, waited = self.state.unbind()
        loss = loss.double()
        better = loss < best * (1 - THRESHOLD)
        waited = torch.where(better, 0.0, waited + 1)
        lower = (rate * FACTOR).clamp(min=LEAST)
        over = waited > PATIENCE
        self.state = torch.stack(
            [
                torch.where(over & (rate - lower > SMALLEST_CHANGE), lower, rate),
                torch.where(better, loss, best),
                torch.where(over, 0.0, waited),
            ]
        )
