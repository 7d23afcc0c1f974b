"""Batch norm, residual and ReLU behind a convolution, and back: each a chain over rows (pixels, channels).

Activations come and go in their own dtype; moments, sums and everything in between are in that of the parameters.
The functions are plain: whether they run as they are or compiled makes no difference but rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.workers.models.stage import EPSILON, bounded


def finish(
    rows: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None, relu: bool, ceiling: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """max(γ·(y − mean)·r + β + residual, 0) of y = `rows` (N, C) with r = 1/√(variance + ε), up to the ceiling; and
    mean, biased variance and r (C)."""
    variance, mean = torch.var_mean(rows.to(gamma.dtype), 0, correction=0)
    inverse = (variance + EPSILON).rsqrt()
    output = _before_relu(_normal(rows, mean, inverse), gamma, beta, residual)
    return (bounded(output, ceiling) if relu else output).to(rows.dtype), mean, variance, inverse


def finish_backward(
    gradient: Tensor,
    rows: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    inverse: Tensor,
    residual: Tensor | None,
    relu: bool,
    ceiling: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of y (through its moments too), γ, β and the residual, of the output's in `gradient` (N, C).

    What ReLU let pass is found again from y and the residual, so that the output need not be kept for it. Without a
    ReLU the residual's gradient is `gradient`: it is not returned.
    """
    normal, outer = _normal(rows, mean, inverse), gradient.to(gamma.dtype)
    if relu:
        output = _before_relu(normal, gamma, beta, residual)
        passed = output > 0 if ceiling is None else (output > 0) & (output < ceiling)
        outer = torch.where(passed, outer, 0.0)
    beta_gradient, gamma_gradient = outer.sum(0), (outer * normal).sum(0)
    inner = (outer - (beta_gradient + normal * gamma_gradient) / len(rows)) * (inverse * gamma)
    of_residual = outer.to(rows.dtype) if relu and residual is not None else None
    return inner.to(rows.dtype), gamma_gradient, beta_gradient, of_residual


def _normal(rows: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    return (rows.to(mean.dtype) - mean) * inverse


def _before_relu(normal: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None) -> Tensor:
    output = normal * gamma + beta
    return output if residual is None else output + residual.to(output.dtype)
