"""Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153) of the weights of M models at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.quantizers import Lsq
from qsweep.workers.compiling import compiled

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


def round_to(weights: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Rounding:
    """u = v/s of `weights` in multiples of `step`, between `low` and `high`, all (M, ω)."""
    ratio = weights / step
    rounded = torch.clamp(ratio, low, high)
    inside = torch.eq(ratio, rounded).to(ratio.dtype)
    return Rounding(ratio=ratio, rounded=rounded.round_(), inside=inside)


def shares_of_steps(rounding: Rounding, slopes: Tensor) -> Tensor:
    """Each weight's share of ∂s (M, ω), unscaled, of ∂v̂ in `slopes`, which becomes ∂v in place."""
    shares = (rounding.rounded - rounding.ratio * rounding.inside).mul_(slopes)
    slopes.mul_(rounding.inside)
    return shares


@dataclass(frozen=True, kw_only=True)
class LevelTables:
    """Qn, Qp and 1/√(N·Qp) of M models' layers (M, layers), the layer of each weight (ω), and the layers' sizes N."""

    low: Tensor
    high: Tensor
    scale: Tensor
    layer_of: Tensor
    counts: tuple[int, ...]


def level_tables(
    quantizers: Sequence[Lsq], layers: Sequence[ConvLayer], device: torch.device, dtype: torch.dtype
) -> LevelTables:
    bits = torch.tensor([layer_bits(one, len(layers)) for one in quantizers])
    counts = torch.tensor([layer.weights for layer in layers])
    highest = 2.0 ** (bits - 1) - 1
    return LevelTables(
        low=(-highest - 1).to(device, dtype),
        high=highest.to(device, dtype),
        scale=(counts * highest.double()).rsqrt().to(device, dtype),
        layer_of=torch.arange(len(layers)).repeat_interleave(counts).to(device),
        counts=tuple(counts.tolist()),
    )


class LsqWeights:
    """The quantizers of M models' weights, each (M, ω) row split into layers with a step size each.

    For b bits Qn = −2^(b−1), Qp = 2^(b−1) − 1 and v̂ = s·round(clip(v/s, Qn, Qp)). Backward, with u = v/s:
    ∂v̂/∂v = 1 where Qn ≤ u ≤ Qp, else 0; ∂v̂/∂s = round(u) − u there, Qn below and Qp above, summed over the
    layer's weights and multiplied by 1/√(N·Qp), N the number of weights of the layer.
    """

    def __init__(
        self, quantizers: Sequence[Lsq], layers: Sequence[ConvLayer], device: torch.device, dtype: torch.dtype
    ) -> None:
        tables = level_tables(quantizers, layers, device, dtype)
        self._layer_of, self._scale, self._counts = tables.layer_of, tables.scale, tables.counts
        self._low, self._high = tables.low[:, tables.layer_of], tables.high[:, tables.layer_of]

    def quantize(self, weights: Tensor, steps: Tensor, out: Tensor) -> Rounding:
        """Write v̂ of `weights` (M, ω) at `steps` (M, layers) to `out`; what `differentiate` needs."""
        step = steps[:, self._layer_of]
        rounding = round_to(weights, step, self._low, self._high)
        torch.mul(rounding.rounded, step, out=out)
        return rounding

    def differentiate(self, rounding: Rounding, slopes: Tensor, step_slopes: Tensor) -> None:
        """Turn ∂v̂ in `slopes` (M, ω) into ∂v, in place, and write ∂s to `step_slopes` (M, layers)."""
        shares = shares_of_steps(rounding, slopes)
        # A GPU shares a sum out among its threads by the number of rows, and that depends on the neighbours.
        runs = range(len(shares)) if shares.is_cuda else (slice(None),)
        for layer, part in enumerate(torch.split(shares, list(self._counts), 1)):
            for run in runs:
                torch.sum(part[run], -1, out=step_slopes[run, layer])
        step_slopes.mul_(self._scale)


class CompiledLsq:
    """The quantizers of M models as two kernels over whole rows of parameters (M, P), whose step sizes begin at
    `steps_start`. Rows without a quantizer stay what they are.

    The backward pass rounds again: to read the weights once more costs less than to keep three more of their size.
    """

    def __init__(
        self,
        quantizers: Sequence[Lsq | None],
        layers: Sequence[ConvLayer],
        steps_start: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        some = next(one for one in quantizers if one is not None)
        self._steps_start = steps_start
        self._own = torch.tensor([one is not None for one in quantizers])[:, None].to(device)
        self._tables = level_tables([one or some for one in quantizers], layers, device, dtype)

    def quantize(self, parameters: Tensor, out: Tensor) -> None:
        """Write v̂, or v, to the first ω columns of `out` (M, P)."""
        tables = self._tables
        given = (self._steps_start, tables.layer_of, tables.low, tables.high)
        compiled(quantize_own)(self._own, parameters, out, *given)

    def differentiate(self, parameters: Tensor, slopes: Tensor) -> None:
        """Turn ∂v̂ in the first ω columns of `slopes` (M, P) into ∂v, and write ∂s to those of the step sizes."""
        tables = self._tables
        given = (self._steps_start, tables.layer_of, tables.low, tables.high, tables.scale, tables.counts)
        compiled(differentiate_own)(self._own, parameters, slopes, *given)


def quantize_own(
    own: Tensor, parameters: Tensor, out: Tensor, steps_start: int, layer_of: Tensor, low: Tensor, high: Tensor
) -> None:
    """`CompiledLsq.quantize`, with `own` (M, 1) true where a row has a quantizer."""
    weights = parameters[:, : len(layer_of)]
    step = parameters[:, steps_start : steps_start + low.shape[1]][:, layer_of]
    rounding = round_to(weights, step, low[:, layer_of], high[:, layer_of])
    out[:, : len(layer_of)].copy_(torch.where(own, rounding.rounded * step, weights))


def differentiate_own(
    own: Tensor,
    parameters: Tensor,
    slopes: Tensor,
    steps_start: int,
    layer_of: Tensor,
    low: Tensor,
    high: Tensor,
    scale: Tensor,
    counts: tuple[int, ...],
) -> None:
    """`CompiledLsq.differentiate`."""
    weights, above = parameters[:, : len(layer_of)], slopes[:, : len(layer_of)]
    of_steps = slopes[:, steps_start : steps_start + len(counts)]
    step = parameters[:, steps_start : steps_start + len(counts)][:, layer_of]
    rounding = round_to(weights, step, low[:, layer_of], high[:, layer_of])
    below = above.clone()
    shares = shares_of_steps(rounding, below)
    sums = torch.stack([part.sum(1) for part in torch.split(shares, list(counts), 1)], 1)
    above.copy_(torch.where(own, below, above))
    of_steps.copy_(torch.where(own, sums * scale, of_steps))
