"""VVTQ's quantizer of weights (Huang et al. 2023, arXiv 2307.00331; `HuangOwen/VVTQ`): LSQ with its own step-size
gradient, its own initialization and a penalty on weights between two codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.quantizers import VvtqActivations
from qsweep.sweeps.signals import Signal
from qsweep.workers.device import sent
from qsweep.workers.models.layout import ACTIVATION, Layout, Role, TensorSpec
from qsweep.workers.quantizers.activations import LsqSignals, SignalTensors, Spread, round_signal
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
        self._share.copy_(sent(torch.tensor(shares, dtype=torch.float64)[:, None], self._share.device))
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


class VvtqSignals(LsqSignals):
    """As `LsqSignals`, but a step size's gradient is multiplied by 1/(Qp·√n), n the numbers of the model's batch, and
    begins as 2·mean|x|/√(2^(b−1) − 1) whatever the signal. What comes out of a GELU is rounded from a learned offset β
    on: x̂ = s·round(clip((x − β)/s, 0, 2^b − 1)) + β, with ∂x̂/∂β = 0 where x is inside of the levels, else 1.

    Where a large batch is taken in parts, n is that of a part.
    """

    @staticmethod
    def tensors(signal: Signal) -> tuple[TensorSpec, ...]:
        found = LsqSignals.tensors(signal)
        module = TensorSpec(name="module", shape=(), role=Role.LEVEL)
        offset = (TensorSpec(name="offset", shape=(), role=Role.ACTIVATION_STEP),) if signal.after_gelu else ()
        return (*found, module, *offset)

    @staticmethod
    def levels(quantizer: VvtqActivations, layout: Layout, statistics: Tensor) -> None:
        for signal in layout.signals:
            bits = quantizer.bits_of(signal)
            unsigned = not signal.signed or signal.after_gelu
            low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            by_module = quantizer.activation_gradient == "module"
            for name, level in (("low", low), ("high", high), ("module", by_module)):
                layout[f"{signal.layer}.{ACTIVATION}.{name}"].of(statistics[None]).fill_(float(level))

    @staticmethod
    def start(tensors: SignalTensors, activations: Sequence[Tensor]) -> None:
        means = torch.stack([one.double().abs().mean() for one in activations])
        levels = tensors.high - tensors.low + 1
        step = tensors.tensors["step"]
        step.copy_(2 * means / (levels / 2 - 1).clamp(min=1).sqrt())
        clamp_steps(step[:, None], SMALLEST_SCALE)
        if "offset" in tensors.tensors:
            tensors.tensors["offset"].zero_()

    @staticmethod
    def quantize(tensors: SignalTensors, activations: Tensor, spread: Spread) -> Tensor:
        highest = tensors.high.clamp(min=1)
        count = spread.apart(activations)[0].numel()
        module = 1 / (highest * count**0.5)
        lsq = (highest * tensors.signal.features).rsqrt()
        scale = torch.where(tensors.tensors["module"] > 0, module, lsq)
        given = (tensors.step, tensors.low, tensors.high, scale, spread)
        if "offset" not in tensors.tensors:
            return round_signal(activations, *given)
        offset = spread.over(tensors.tensors["offset"]).to(activations.dtype)
        return round_signal(activations - offset, *given) + offset

    @staticmethod
    def restrain(layout: Layout, parameters: Tensor) -> Tensor:
        names = (f"{signal.layer}.{ACTIVATION}.offset" for signal in layout.signals if signal.after_gelu)
        offsets = [layout[name].of(parameters) for name in names]
        kept = [one.clone() for one in offsets]
        low = clamp_steps(layout.activation_steps.of(parameters), SMALLEST_SCALE)
        for one, before in zip(offsets, kept, strict=True):
            low -= (before < SMALLEST_SCALE).long()
            one.copy_(before)
        return low
