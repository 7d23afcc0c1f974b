"""VVTQ's quantizer of weights (Huang et al. 2023, arXiv 2307.00331; `HuangOwen/VVTQ`): LSQ with its own step-size
gradient, its own initialization and a penalty on weights between two codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.lsq import LsqWeights, Rounding, clamp_steps, layer_bits

SMALLEST_SCALE = 1e-4
"""Scales are kept at or above this."""
SETTLED = 1e-5
"""The relative change of a scale at which its initialization ends."""
MOST_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class VvtqRounding(Rounding):
    """A `Rounding` with what the module-dependent factor needs: Σ|v| of each layer (M, layers)."""

    mass: Tensor


class VvtqWeights(LsqWeights):
    """As `LsqWeights`, but for three things.

    The sum that is the step size's gradient is multiplied by g = 1/√(Qp·Σ|v|) of the layer's current weights
    (`step_gradient = "module"`), or as LSQ does (`"lsq"`). The step size begins at the fixed point of
    s ← ⟨v, q⟩/⟨q, q⟩, q = round(clip(v/s)), from s = max|v|/Qp. And in the last three quarters of a training the
    gradient of λ(t)·R is added, R = mean((v̂ − c)²) + Σ over codes k of the variance of the c that round to k, with
    c = s·clip(v/s) and v̂ constant; codes of a single weight have no variance. That is, where v is not clipped,
    ∂R/∂v = −2(v̂ − v)/N + 2(v − mean_k)/(n_k − 1), and elsewhere ∂R/∂s = g·Q·2(c − mean_k)/(n_k − 1).
    """

    def __init__(
        self,
        quantizers: Sequence[Any],
        layout: Layout,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None:
        super().__init__(quantizers, layout, device, dtype, divides=divides)
        self._quantizers = tuple(quantizers)
        self._highest = torch.tensor(
            [[2.0 ** (bits - 1) - 1 for bits in layer_bits(one, layout)] for one in quantizers], dtype=torch.float64
        ).to(device, dtype)
        by_module = torch.tensor([one.step_gradient == "module" for one in quantizers])
        self._by_module = by_module[:, None].to(device)
        self._share = torch.zeros(len(quantizers), 1, device=device, dtype=dtype)
        self._penalized = False
        # Where the sums over the weights of each code stand: a run of 256 for each layer.
        self._first_code = 256 * self._layer_of + 128
        self._count = torch.tensor(self._counts).to(device, dtype)[self._layer_of]

    @staticmethod
    def initialize(quantizer: Any, layout: Layout, row: Tensor) -> None:
        """Set the step sizes of one model's `row` (P) to their fixed points."""
        parts = torch.split(row[: layout.weights], [group.count for group in layout.groups])
        found = [fixed_point(part, bits) for part, bits in zip(parts, layer_bits(quantizer, layout), strict=True)]
        layout.steps.of(row[None])[0] = torch.tensor(found).clamp_(min=SMALLEST_SCALE)

    def open(self, epoch: int, epochs: int) -> None:
        """Set λ of an epoch (from 0) of so many."""
        shares = [penalty_at(epoch, epochs, one.bin_regularization) for one in self._quantizers]
        self._share.copy_(torch.tensor(shares, dtype=torch.float64)[:, None])
        # A step on a GPU is recorded once, whatever λ is.
        self._penalized = any(shares) or (
            self._share.is_cuda and any(one.bin_regularization for one in self._quantizers)
        )

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> VvtqRounding:
        weights = parameters[:, self._weights]
        mass = self._sums((weights if factor is None else weights / factor).abs())
        rounding = super().quantize(parameters, out, factor=factor)
        return VvtqRounding(**vars(rounding), mass=mass)

    def differentiate(self, rounding: Any, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        super().differentiate(rounding, gradients, factor=factor)
        step_gradients = self._steps.of(gradients)
        lsq = self._scale if self._root is None else 1 / self._root
        module = (self._highest * rounding.mass).rsqrt_()
        scale = torch.where(self._by_module, module, lsq)
        step_gradients.mul_(torch.where(self._by_module, module / lsq, 1.0))
        if self._penalized:
            self._penalize(rounding, gradients, scale)

    def _penalize(self, rounding: VvtqRounding, gradients: Tensor, scale: Tensor) -> None:
        """Add λ·∂R to the gradients (M, P). In units of the step size, in which c is clip(u)."""
        clipped = torch.clamp(rounding.ratio, rounding.low, rounding.high)  # type: ignore[arg-type]
        inside = rounding.ratio == clipped
        counts, means = self._bins(rounding.rounded, clipped)
        away = 2 * (clipped - means) / (counts - 1).clamp(min=1)
        step = rounding.step
        of_weights = (away - 2 * (rounding.rounded - clipped) / self._count) * step
        gradients[:, self._weights].add_(torch.where(inside, of_weights, 0.0) * self._share)
        of_steps = torch.where(inside, 0.0, clipped * away * step)
        self._steps.of(gradients).add_(self._sums(of_steps) * scale * self._share)

    def _bins(self, rounded: Tensor, clipped: Tensor) -> tuple[Tensor, Tensor]:
        """Of each weight (M, ω): how many have its code in its layer, and the mean of their clip(u). Model by model."""
        counts, means = torch.empty_like(clipped), torch.empty_like(clipped)
        for row, (codes, values) in enumerate(zip(rounded, clipped, strict=True)):
            places = self._first_code + codes.nan_to_num(0.0).long()
            sums = values.new_zeros(2, 256 * len(self._counts))
            sums[0].scatter_add_(0, places, torch.ones_like(values))
            sums[1].scatter_add_(0, places, values)
            counts[row] = sums[0][places]
            means[row] = (sums[1] / sums[0])[places]
        return counts, means

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the scales of `rows` (M, P) in their range, in place; how many of each row were not (M)."""
        return clamp_steps(self._steps.of(rows), SMALLEST_SCALE)


def fixed_point(weights: Tensor, bits: int) -> float:
    """The scale that VVTQ begins with: s ← ⟨v, q⟩/⟨q, q⟩ from max|v|/Qp until it changes by less than 1e-5."""
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    values = weights.double()
    scale = float(values.abs().max()) / high
    for _ in range(MOST_ITERATIONS):
        if not scale > 0:
            break
        codes = (values / scale).clamp(low, high).round()
        square = float(codes.square().sum())
        if not square:
            break
        before, scale = scale, float((values * codes).sum()) / square
        if abs(scale - before) < SETTLED * abs(before):
            break
    return scale


def penalty_at(epoch: int, epochs: int, highest: float) -> float:
    """λ(t) of an epoch t (from 0) of T: 0 before T/4, then λ·(1 − cos(π(t − T/4)/(3T/4)))/2, which rises to λ."""
    begin = 0.25 * epochs
    if epoch < begin:
        return 0.0
    return highest * (1 - math.cos(math.pi * (epoch - begin) / (0.75 * epochs))) / 2
