"""Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153): its one forward and its one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.quantizers import Stepped
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.sums import row_sums

SMALLEST_STEP = float(torch.finfo(torch.float32).eps)
"""Step sizes are kept at or above this: a plain update may take them below zero."""


def layer_bits(quantizer: Stepped, layout: Layout) -> list[int]:
    """Bit width of each group of weights."""
    return [quantizer.outer_bits if group.outer else quantizer.bits for group in layout.groups]


Level = Tensor | float


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What a forward pass leaves for its backward pass: u, round(clip(u)) and s of each weight (M, ω), and between what
    u was clipped."""

    ratio: Tensor
    rounded: Tensor
    step: Tensor
    low: Level
    high: Level


def round_to(weights: Tensor, step: Tensor, low: Level, high: Level) -> Rounding:
    """u = v/s of `weights` (M, ω) in multiples of `step`, between `low` and `high`."""
    ratio = weights / step
    return Rounding(ratio=ratio, rounded=_clipped(ratio, low, high).round_(), step=step, low=low, high=high)


def shares_of_steps(rounding: Rounding, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Each weight's share of ∂s (M, ω), unscaled, of ∂v̂ in `gradients`; and 1 where u was not clipped, 0 elsewhere."""
    ratio = rounding.ratio
    inside = torch.eq(ratio, _clipped(ratio, rounding.low, rounding.high)).to(ratio.dtype)
    return (rounding.rounded - ratio * inside).mul_(gradients), inside


def _clipped(ratio: Tensor, low: Level, high: Level) -> Tensor:
    return torch.clamp(ratio, low, high)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class LevelTables:
    """Qn and Qp of M models' layers, and √(N·Qp) with its reciprocal, all (M, layers), and the layer of each weight
    (ω)."""

    low: Tensor
    high: Tensor
    root: Tensor
    scale: Tensor
    layer_of: Tensor


def level_tables(
    quantizers: Sequence[Stepped], layout: Layout, device: torch.device, dtype: torch.dtype
) -> LevelTables:
    highest = 2.0 ** (torch.tensor([layer_bits(one, layout) for one in quantizers]) - 1) - 1
    counts = torch.tensor([group.count for group in layout.groups])
    products = counts * highest.double()
    return LevelTables(
        low=(-highest - 1).to(device, dtype),
        high=highest.to(device, dtype),
        root=products.sqrt().to(device, dtype),
        scale=products.rsqrt().to(device, dtype),
        layer_of=torch.arange(len(counts)).repeat_interleave(counts).to(device),
    )


class LsqWeights:
    """The quantizers of M models, or one quantizer of any number of copies of a model, on rows of parameters (M, P).

    A layer has one step size s. For b bits Qn = −2^(b−1), Qp = 2^(b−1) − 1 and v̂ = s·round(clip(v/s, Qn, Qp)).
    Backward, with u = v/s: ∂v̂/∂v = 1 where Qn ≤ u ≤ Qp, else 0; ∂v̂/∂s = round(u) − u there, Qn below and Qp above,
    summed over the layer's weights and multiplied by 1/√(N·Qp), N the number of weights of the layer.

    Where batch norm is folded into the weights, `factor` (ω) takes a latent weight to its folded one: the rows hold
    factor·v, and factor·Q(v) is what they become. `divides` divides by √(N·Qp) instead, as ascents do: the last bit of
    a step size's gradient may differ.
    """

    def __init__(
        self,
        quantizers: Sequence[Stepped],
        layout: Layout,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None:
        tables = level_tables(quantizers, layout, device, dtype)
        self._weights = slice(0, layout.weights)
        self._steps = layout.steps
        self._counts = [group.count for group in layout.groups]
        self._layer_of = tables.layer_of
        self._low, self._high = tables.low[:, tables.layer_of], tables.high[:, tables.layer_of]
        self._levels = [(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) for bits in layer_bits(quantizers[0], layout)]
        self._root, self._scale = tables.root if divides else None, tables.scale

    layer_bits = staticmethod(layer_bits)

    def open(self, epoch: int, epochs: int) -> None:
        """Every epoch is alike."""

    @staticmethod
    def initialize(quantizer: Stepped, layout: Layout, row: Tensor) -> None:
        """Set the step sizes of one model's `row` (P) to s = 2·mean|v|/√Qp of each layer."""
        parts = torch.split(row[: layout.weights], [group.count for group in layout.groups])
        means = torch.stack([part.abs().mean() for part in parts])
        highest = torch.tensor([2.0 ** (bits - 1) - 1 for bits in layer_bits(quantizer, layout)])
        layout.steps.of(row[None])[0] = (2 * means / highest.sqrt()).clamp_(min=SMALLEST_STEP)

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Rounding:
        """Write v̂ of `parameters` (M, P) to the first ω columns of `out` (M, P), which may be the same rows; what
        `differentiate` needs."""
        step = self._steps.of(parameters)[:, self._layer_of]
        weights = parameters[:, self._weights]
        rounding = round_to(weights if factor is None else weights / factor, step, self._low, self._high)
        deployed = torch.mul(rounding.rounded, step, out=out[:, self._weights])
        if factor is not None:
            deployed.mul_(factor)
        return rounding

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        """Round the weights of copies (C, P) of the one model in place: layer by layer, as nothing is kept."""
        parts = torch.split(rows[:, self._weights], self._counts, 1)
        factors = [None] * len(parts) if factor is None else torch.split(factor, self._counts)
        steps = torch.split(self._steps.of(rows), 1, 1)
        for weights, step, of_fold, (low, high) in zip(parts, steps, factors, self._levels, strict=True):
            rounding = round_to(weights if of_fold is None else weights / of_fold, step, low, high)
            torch.mul(rounding.rounded, step, out=weights)
            if of_fold is not None:
                weights.mul_(of_fold)

    def differentiate(self, rounding: Rounding, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        """Turn ∂v̂ in the first ω columns of `gradients` (M, P) into ∂v, in place, and write ∂s to those of the step
        sizes. With a `factor` they are the gradients of factor·v̂ and factor·v."""
        above, step_gradients = gradients[:, self._weights], self._steps.of(gradients)
        shares, inside = shares_of_steps(rounding, above if factor is None else above * factor)
        above.mul_(inside)
        self._sums(shares, out=step_gradients)
        if self._root is None:
            step_gradients.mul_(self._scale)
        else:
            step_gradients.div_(self._root)

    def _sums(self, values: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The sums of values (M, ω) over each layer (M, layers)."""
        sums = values.new_empty(len(values), len(self._counts)) if out is None else out
        for layer, part in enumerate(torch.split(values, self._counts, 1)):
            row_sums(part, out=sums[:, layer])
        return sums

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the step sizes of `rows` (M, P) positive, in place; how many of each row were not (M)."""
        return clamp_steps(self._steps.of(rows))


def clamp_steps(steps: Tensor, smallest: float = SMALLEST_STEP) -> Tensor:
    """Keep step sizes (M, layers) at or above `smallest`, in place; how many of each model were not (M)."""
    low = (steps < smallest).sum(1)
    steps.clamp_(min=smallest)
    return low
