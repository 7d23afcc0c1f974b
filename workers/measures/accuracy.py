"""How well perturbed models do: a batch of models over the same images, judged on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsweep.workers.forms import SMALL_IMAGE
from qsweep.workers.measures.inference import Inference, InTurn, SideBySide

CPU_ROWS = 1 << 27
GPU_ROWS = 1 << 30
"""Bytes that the weights of the models of one pass may take."""
MOST = 64
"""Models of one pass, at most."""


class Examinees:
    """Images (S, channels, side, side, standardized) and labels (S) that models of one shape are judged by."""

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._count = len(labels)
        in_turn = not images.is_cuda and images.shape[-1] ** 2 > SMALL_IMAGE
        self._inference: Inference = (InTurn if in_turn else SideBySide)(network, images, labels)

        row = network.layout.parameters_length * images.element_size()
        room = (GPU_ROWS if images.is_cuda else CPU_ROWS) // row
        self.full_pass: int = max(1, min(self._inference.together(1), room, MOST))

    def __len__(self) -> int:
        return self._count

    def together(self, copies: int) -> int:
        """How many models with `copies` copies each are best judged in one pass."""
        return self._inference.together(copies)

    @torch.no_grad()
    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        """Images that each of the models in `rows` (M, P, their weights as deployed) gets right (M, int64)."""
        return self._inference.hits(rows, statistics)

    @torch.no_grad()
    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) and accuracy of each of up to `full_pass` models (M, float64).

        Every pass is filled up to one size, so the bits are the same however many are judged at once.
        """
        given = len(rows)
        filling = torch.arange(self.full_pass, device=rows.device).clamp(max=given - 1)
        losses, hits = self._inference.scores(rows[filling], statistics[filling])
        return losses[:given] / self._count, hits[:given].double() / self._count

    @torch.no_grad()
    def losses(self, rows: Tensor, statistics: Tensor, *, slots: int) -> tuple[Tensor, Tensor]:
        """The sum of each model's cross-entropies over the images (M, float64, nats), and its hits (M, int64).

        Fewer models than `slots` are judged with vacant ones beside them, so that a model's bits depend on the slots
        and on no neighbour; where one model is judged after another there is no need of that.
        """
        models = len(rows)
        vacant = 0 if isinstance(self._inference, InTurn) else max(slots - models, 0)
        padded = [torch.cat([one, one.new_zeros(vacant, one.shape[1])]) for one in (rows, statistics)]
        losses, hits = self._inference.scores(*padded)
        return losses[:models], hits[:models]
