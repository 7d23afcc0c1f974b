"""How well perturbed models do: a batch of models over the same images, judged on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.workers.evaluation import Tally
from qsweep.workers.forms import SMALL_IMAGE
from qsweep.workers.measures.inference import Inference, InTurn, SideBySide
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.network import Network

CPU_ROWS = 1 << 27
GPU_ROWS = 1 << 30
"""Bytes that the weights of the models of one pass may take."""
MOST = 64
"""Models of one pass, at most."""


class EvaluationSet:
    """Images (S, channels, side, side, standardized) and labels (S) that models of one shape are judged by."""

    def __init__(self, network: Network, images: Tensor, labels: Tensor) -> None:
        self._count = len(labels)
        small = images.is_cuda or images.shape[-1] ** 2 <= SMALL_IMAGE
        self._inference: Inference
        if small and isinstance(network, ConvNetwork):
            self._inference = SideBySide(network, images, labels)
        else:
            self._inference = InTurn(network, images, labels)

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
        found = self._inference.scores(rows[filling], statistics[filling])
        return found.loss[:given], found.accuracy[:given]

    @torch.no_grad()
    def tally(self, rows: Tensor, statistics: Tensor, *, slots: int) -> Tally:
        """Each model's cross-entropies and hits.

        Fewer models than `slots` are judged with vacant ones beside them, so that a model's bits depend on the slots
        and on no neighbour; where one model is judged after another there is no need of that.
        """
        models = len(rows)
        vacant = 0 if isinstance(self._inference, InTurn) else max(slots - models, 0)
        padded = [torch.cat([one, one.new_zeros(vacant, one.shape[1])]) for one in (rows, statistics)]
        found = self._inference.scores(*padded)
        return Tally(losses=found.sums[:models], hits=found.hits[:models], images=found.images)
