"""SAQ's quantizer of the weights (Liu et al. 2021, arXiv 2111.12273; `ziplab/SAQ`: `LIQ.py` and `LIQ_wn.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.quantizers import Liq
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.lsq import clamp_steps, layer_bits
from qsweep.workers.quantizers.sums import row_sums

START_OF_CLIP = 0.8
"""Share of the largest weight of a linear layer that its clip begins at."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What a forward pass leaves for its backward pass: w̃/c, v̂/c and the deviation of each weight's layer, all (M, all
    weights)."""

    ratio: Tensor
    rounded: Tensor
    deviation: Tensor


class LiqWeights:
    """The quantizers of M models, or one quantizer of any number of copies of a model, on rows of parameters (M, P).

    The weights of a convolution are normalized, w̃ = (w − mean)/deviation (the unbiased one), those of a linear layer
    are not. With a clip c a layer, and n = 2^b − 1, v̂ = c·(2·round(n·(clip(w̃/c, −1, 1) + 1)/2)/n − 1): 2^b levels, none
    of them 0. Batch norm takes up the scale. Backward, with mean and deviation held constant: ∂v̂/∂w = 1/deviation where
    |w̃| ≤ c, else 0; ∂v̂/∂c = (v̂ − w̃)/c there, ±1 elsewhere, summed over the layer's weights, with no factor. The row's
    step sizes are the clips.
    """

    def __init__(
        self,
        quantizers: Sequence[Liq],
        layout: Layout,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None:
        counts = [group.count for group in layout.groups]
        highest = 2.0 ** torch.tensor([layer_bits(one, layout) for one in quantizers]) - 1
        self._weights, self._clips, self._counts = slice(0, layout.weights), layout.steps, counts
        self._normalized = [not group.linear for group in layout.groups]
        self._layer_of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device)
        self._half = (highest / 2).to(device, dtype)

    layer_bits = staticmethod(layer_bits)

    @staticmethod
    def initialize(quantizer: Liq, layout: Layout, row: Tensor) -> None:
        """Set the clips of one model's `row` (P): 1 of a convolution, 0.8·max|w| of a linear layer."""
        clips = layout.steps.of(row[None])[0]
        parts = torch.split(row[: layout.weights], [group.count for group in layout.groups])
        for index, (group, part) in enumerate(zip(layout.groups, parts, strict=True)):
            clips[index] = START_OF_CLIP * part.abs().max() if group.linear else 1.0
        clamp_steps(clips[None])

    def open(self, epoch: int, epochs: int) -> None:
        """Every epoch is alike."""

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Rounding:
        """Write v̂ of `parameters` (M, P) to the first columns of `out` (M, P), which may be the same rows; what
        `differentiate` needs."""
        weights = parameters[:, self._weights]
        weights = weights if factor is None else weights / factor
        parts = torch.split(weights, self._counts, 1)
        moments = [_moments(part, normalized=some) for part, some in zip(parts, self._normalized, strict=True)]
        mean, deviation = (torch.stack(one, 1)[:, self._layer_of] for one in zip(*moments, strict=True))
        clip = self._clips.of(parameters)[:, self._layer_of]
        ratio = (weights - mean).div_(deviation).div_(clip)
        rounded = _rounded(ratio, self._half[:, self._layer_of])
        deployed = torch.mul(rounded, clip, out=out[:, self._weights])
        if factor is not None:
            deployed.mul_(factor)
        return Rounding(ratio=ratio, rounded=rounded, deviation=deviation)

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        """Round the weights of copies (C, P) of the one model in place: layer by layer, as nothing is kept."""
        parts = torch.split(rows[:, self._weights], self._counts, 1)
        factors = [None] * len(parts) if factor is None else torch.split(factor, self._counts)
        clips = torch.split(self._clips.of(rows), 1, 1)
        for index, (weights, clip, of_fold) in enumerate(zip(parts, clips, factors, strict=True)):
            latent = weights if of_fold is None else weights / of_fold
            mean, deviation = (one[:, None] for one in _moments(latent, normalized=self._normalized[index]))
            rounded = _rounded((latent - mean).div_(deviation).div_(clip), self._half[:, index : index + 1])
            torch.mul(rounded, clip, out=weights)
            if of_fold is not None:
                weights.mul_(of_fold)

    def differentiate(self, rounding: Rounding, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        """Turn ∂v̂ in the first columns of `gradients` (M, P) into ∂w, in place, and write ∂c to those of the clips.
        With a `factor` they are the gradients of factor·v̂ and factor·w."""
        above, of_clips = gradients[:, self._weights], self._clips.of(gradients)
        inside = (rounding.ratio.abs() <= 1).to(above.dtype)
        shares = (rounding.rounded - rounding.ratio * inside).mul_(above if factor is None else above * factor)
        above.mul_(inside).div_(rounding.deviation)
        for index, part in enumerate(torch.split(shares, self._counts, 1)):
            row_sums(part, out=of_clips[:, index])

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the clips of `rows` (M, P) positive, in place; how many of each row were not (M)."""
        return clamp_steps(self._clips.of(rows))


def _rounded(ratio: Tensor, half: Tensor) -> Tensor:
    """The nearest of the levels from −1 to 1, of which there are 2·`half` + 1."""
    return torch.clamp(ratio, -1, 1).add_(1).mul_(half).round_().div_(half).sub_(1)


def _moments(weights: Tensor, *, normalized: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each row of one layer's weights (M, N): 0 and 1 where they are not normalized."""
    if not normalized:
        return weights.new_zeros(len(weights)), weights.new_ones(len(weights))
    mean = row_sums(weights) / weights.shape[1]
    square = row_sums((weights - mean[:, None]).square())
    return mean, (square / (weights.shape[1] - 1)).sqrt()
