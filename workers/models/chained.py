"""The library's convolutions, with the chain between two of them compiled: few passes over each activation.

Forward the chain reads a convolution's output twice, for its moments and for what comes of it, and writes the next
one's input once; backward it reads that output and the gradient twice and writes one gradient. A residual is read
once in each direction, and its gradient written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.layers import Layer
from qsweep.workers.compiling import compiled
from qsweep.workers.models import chains
from qsweep.workers.models.convolved import Convolved
from qsweep.workers.models.stage import Moments, NormTensors


class Chained(Convolved):
    """As `Convolved`, but batch norm, residual and ReLU are one chain."""

    def finish(
        self, output: Tensor, layer: Layer, norm: NormTensors, run: slice, residual: Tensor | None
    ) -> tuple[Tensor, Moments]:
        gamma, beta = self.columns(norm, run)
        given = None if residual is None else _rows(residual)
        found = _Chain.apply(_rows(output), gamma, beta, given, layer.relu, layer.ceiling)
        rows, mean, variance = found
        batch, _, *sides = output.shape
        return rows.view(batch, *sides, -1).permute(0, 3, 1, 2), (mean, variance)


def _rows(planes: Tensor) -> Tensor:
    """Images (B, C, side, side) as rows (pixels, C): without a copy, as they are channels-last."""
    return planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])


class _Chain(torch.autograd.Function):
    """`chains.finish` of rows (N, C), γ and β (C): the output, and the moments (C) without a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        gamma: Tensor,
        beta: Tensor,
        residual: Tensor | None,
        relu: bool,
        ceiling: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, mean, variance, inverse = compiled(chains.finish)(rows, gamma, beta, residual, relu, ceiling)
        ctx.save_for_backward(rows, gamma, beta, mean, inverse, residual)
        ctx.relu, ctx.ceiling = relu, ceiling
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, residual = gradients[0].contiguous(), ctx.saved_tensors[-1]
        below, gamma_gradient, beta_gradient, of_residual = compiled(chains.finish_backward)(
            gradient, *ctx.saved_tensors, ctx.relu, ctx.ceiling
        )
        if residual is not None and not ctx.relu:
            of_residual = gradient
        return below, gamma_gradient, beta_gradient, of_residual, None, None
