"""How many weights a perturbation takes to another code: where it is none, SAQ's second case is plain training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.engine import Deployed
from qsweep.workers.models.layout import Layout

APART = 1e-3
"""In step sizes: the levels of a quantizer lie further apart, and what rounding leaves of one lies nearer to it."""


class Codes:
    """The codes of the weights of M models, each model's own: deployed weights in units of the step sizes that they are
    deployed with, whatever the quantizer. Where no step size moves (`steps_move`), one deployed weight is one code. The
    rows behind those of `trainings` are vacant."""

    def __init__(self, trainings: Sequence[Training], layout: Layout, parameters: Tensor, *, steps_move: bool) -> None:
        self._steps, self._weights, self._steps_move = layout.steps, layout.weights, steps_move
        counts = torch.tensor([group.count for group in layout.groups])
        self._layer_of = torch.arange(len(counts)).repeat_interleave(counts).to(parameters.device)
        quantized = torch.zeros(len(parameters), dtype=torch.bool)
        quantized[: len(trainings)] = torch.tensor([one.quantizer is not None for one in trainings])
        self._quantized = quantized.to(parameters.device)
        self._any = bool(quantized.any())
        self._before = parameters.new_zeros(len(parameters), layout.weights if self._any else 0)

    def keep(self, deployed: Deployed) -> None:
        """Take the codes with which `changed` compares."""
        if self._any:
            self._before.copy_(self._of(deployed))

    def changed(self, deployed: Deployed) -> Tensor:
        """The share of each model's weights that have another code than was kept (M, float64); 0 in full precision. It
        is counted, and so no matter of the order of a sum."""
        if not self._any:
            return torch.zeros_like(self._quantized, dtype=torch.float64)
        now = self._of(deployed)
        others = (now - self._before).abs() > APART if self._steps_move else now != self._before
        shares: Tensor = (others.sum(1) * self._quantized).double() / self._weights
        return shares

    @torch.no_grad()
    def _of(self, deployed: Deployed) -> Tensor:
        weights = deployed.weights[:, : self._weights]
        return weights / self._steps.of(deployed.parameters)[:, self._layer_of] if self._steps_move else weights
