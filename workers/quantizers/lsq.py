"""Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153) of the weights of M models at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeps.layers import ConvLayer
from sweeps.quantizers import Lsq

SMALLEST_STEP = float(torch.finfo(torch.float32).eps)
"""Step sizes are kept at or above this: a plain update may take them below zero."""


def initial_steps(quantizer: Lsq, layers: Sequence[ConvLayer], weights: Tensor) -> Tensor:
    """s = 2·mean|v|/√Qp of each layer in one model's `weights` (ω)."""
    parts = torch.split(weights, [layer.weights for layer in layers])
    means = torch.stack([part.abs().mean() for part in parts])
    highest = torch.tensor([2.0 ** (bits - 1) - 1 for bits in layer_bits(quantizer, len(layers))])
    return (2 * means / highest.sqrt()).clamp_(min=SMALLEST_STEP)


def layer_bits(quantizer: Lsq, layers: int) -> list[int]:
    """Bit width of each of the layers: the first and the last are the outer ones."""
    return [quantizer.outer_bits if index in (0, layers - 1) else quantizer.bits for index in range(layers)]


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What a forward pass leaves for its backward pass (M, ω): u, round(clip(u)), and 1 where u is inside."""

    ratio: Tensor
    rounded: Tensor
    inside: Tensor


class LsqWeights:
    """The quantizers of M models' weights, each (M, ω) row split into layers with a step size each.

    For b bits Qn = −2^(b−1), Qp = 2^(b−1) − 1 and v̂ = s·round(clip(v/s, Qn, Qp)). Backward, with u = v/s:
    ∂v̂/∂v = 1 where Qn ≤ u ≤ Qp, else 0; ∂v̂/∂s = round(u) − u there, Qn below and Qp above, summed over the
    layer's weights and multiplied by 1/√(N·Qp), N the number of weights of the layer.
    """

    def __init__(
        self, quantizers: Sequence[Lsq], layers: Sequence[ConvLayer], device: torch.device, dtype: torch.dtype
    ) -> None:
        bits = torch.tensor([layer_bits(one, len(layers)) for one in quantizers])
        counts = torch.tensor([layer.weights for layer in layers])
        layer_of = torch.arange(len(layers)).repeat_interleave(counts)
        highest = 2.0 ** (bits - 1) - 1
        scale = (counts * highest.double()).rsqrt()
        self._layer_of = layer_of.to(device)
        self._low = (-highest - 1).to(device, dtype)[:, self._layer_of]
        self._high = highest.to(device, dtype)[:, self._layer_of]
        self._scale = scale.to(device, dtype)
        self._counts: list[int] = counts.tolist()

    def quantize(self, weights: Tensor, steps: Tensor, out: Tensor) -> Rounding:
        """Write v̂ of `weights` (M, ω) at `steps` (M, layers) to `out`; what `differentiate` needs."""
        step = steps[:, self._layer_of]
        ratio = weights / step
        rounded = torch.clamp(ratio, self._low, self._high)
        inside = torch.eq(ratio, rounded).to(ratio.dtype)
        torch.mul(rounded.round_(), step, out=out)
        return Rounding(ratio=ratio, rounded=rounded, inside=inside)

    def differentiate(self, rounding: Rounding, slopes: Tensor, step_slopes: Tensor) -> None:
        """Turn ∂v̂ in `slopes` (M, ω) into ∂v, in place, and write ∂s to `step_slopes` (M, layers)."""
        step_slope = (rounding.rounded - rounding.ratio * rounding.inside).mul_(slopes)
        slopes.mul_(rounding.inside)
        for layer, part in enumerate(torch.split(step_slope, self._counts, 1)):
            torch.sum(part, 1, out=step_slopes[:, layer])
        step_slopes.mul_(self._scale)
