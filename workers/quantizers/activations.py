"""Quantized activations: the signals that layers read, rounded to levels with a learned step size each.

Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153) and SAQ's LIQ (Liu et al. 2021, arXiv 2111.12273).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from qsweep.sweeps.signals import Signal
from qsweep.workers.models.layout import ACTIVATION, Layout, Role, TensorSpec
from qsweep.workers.quantizers.lsq import clamp_steps
from qsweep.workers.quantizers.sums import sum_of

START_OF_CLIP = 0.8
"""Share of the largest value before a linear layer that a clip of LIQ begins at."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the activations of M models lie in one tensor."""

    over: Callable[[Tensor], Tensor]
    """Values (M) as they are broadcast over the tensor."""
    apart: Callable[[Tensor], Sequence[Tensor]]
    """Each model's part of the tensor, without what it may be filled up with."""


@dataclass(kw_only=True)
class SignalTensors:
    """What one signal of M models is quantized with. A network quantizes what a layer reads by `rounded`."""

    signal: Signal
    quantizer: type[ActivationQuantizer]
    tensors: Mapping[str, Tensor]
    """By the last part of their names, each with a row a model."""
    observer: Callable[[SignalTensors, Sequence[Tensor]], None] | None = None
    """Shown each model's activations before they are rounded."""

    def rounded(self, activations: Tensor, spread: Spread) -> Tensor:
        """The quantized activations; differentiable in them and in what is learned."""
        if self.observer is not None:
            self.observer(self, spread.apart(activations))
        return self.quantizer.quantize(self, activations, spread)

    @property
    def step(self) -> Tensor:
        """Each model's distance of two levels (M)."""
        return self.quantizer.step_of(self)

    @property
    def low(self) -> Tensor:
        """Each model's lowest level in steps (M)."""
        return self.tensors["low"]

    @property
    def high(self) -> Tensor:
        """Each model's highest level in steps (M)."""
        return self.tensors["high"]

    def of(self, models: slice) -> SignalTensors:
        """Those of some of the models."""
        some = {name: tensor[models] for name, tensor in self.tensors.items()}
        return SignalTensors(signal=self.signal, quantizer=self.quantizer, tensors=some, observer=self.observer)


def stacked(activations: Tensor, signal: SignalTensors) -> Tensor:
    """Quantized activations (M, …) of models one after another; of one (1, …) that all models share, (M, …)."""
    ones = (1,) * (activations.dim() - 1)
    return signal.rounded(activations, Spread(over=lambda values: values.view(-1, *ones), apart=torch.unbind))


def side_by_side(activations: Tensor, signal: SignalTensors, channels: int) -> Tensor:
    """Quantized activations (B, M·C, side, side) of models side by side, each with so many channels and what they are
    filled up with."""
    models = len(signal.tensors["step"])
    filled = activations.shape[1] // models

    def over(values: Tensor) -> Tensor:
        return values.repeat_interleave(filled).view(1, -1, 1, 1)

    def apart(some: Tensor) -> Sequence[Tensor]:
        return [part[:, :channels] for part in torch.chunk(some, models, 1)]

    return signal.rounded(activations, Spread(over=over, apart=apart))


class ActivationQuantizer(Protocol):
    """What the engine and the networks ask of a family of activation quantizers.

    Models never meet. What a model computes with stands in its rows: what is learned in those of parameters, the levels
    in those of statistics, so that rows of any models may be judged side by side.
    """

    @staticmethod
    def tensors(signal: Signal) -> tuple[TensorSpec, ...]:
        """What a signal has, with names of one part. What is learned has the role ACTIVATION_STEP, or another that is
        trained; what is fixed has the role LEVEL."""

    @staticmethod
    def levels(quantizer: Any, layout: Layout, statistics: Tensor) -> None:
        """Set what is fixed in one model's row of statistics (S), by its settings."""

    @staticmethod
    def start(tensors: SignalTensors, activations: Sequence[Tensor]) -> None:
        """Set what is learned, in place, by each model's activations of a first batch."""

    @staticmethod
    def quantize(tensors: SignalTensors, activations: Tensor, spread: Spread) -> Tensor:
        """`SignalTensors.rounded`."""

    @staticmethod
    def step_of(tensors: SignalTensors) -> Tensor:
        """`SignalTensors.step`."""

    @staticmethod
    def restrain(layout: Layout, parameters: Tensor) -> Tensor:
        """Keep what is learned in its range, in place, in rows (M, P); how many of each row were not (M)."""


def tensors_of(layout: Layout, tensors: Mapping[str, Tensor]) -> dict[str, SignalTensors]:
    """What each quantized signal of a network's models is quantized with, by the layer that reads it."""
    found = {}
    for signal in layout.signals:
        assert layout.activations is not None
        names = [spec.name for spec in layout.activations.tensors(signal)]
        some = {name: tensors[f"{signal.layer}.{ACTIVATION}.{name}"] for name in names}
        found[signal.layer] = SignalTensors(signal=signal, quantizer=layout.activations, tensors=some)
    return found


class LsqSignals:
    """x̂ = s·round(clip(x/s, Qn, Qp)) with 0 and 2^b − 1 for Qn and Qp, or −2^(b−1) and 2^(b−1) − 1 of a signed signal.

    Backward, with u = x/s: ∂x̂/∂x = 1 where Qn ≤ u ≤ Qp, else 0; ∂x̂/∂s = round(u) − u there, Qn below and Qp above,
    summed over a model's activations and multiplied by 1/√(N·Qp), N the numbers of one image.
    """

    @staticmethod
    def tensors(signal: Signal) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(name="step", shape=(), role=Role.ACTIVATION_STEP),
            TensorSpec(name="low", shape=(), role=Role.LEVEL),
            TensorSpec(name="high", shape=(), role=Role.LEVEL),
        )

    @staticmethod
    def levels(quantizer: Any, layout: Layout, statistics: Tensor) -> None:
        for signal in layout.signals:
            bits = quantizer.bits_of(signal)
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signal.signed else (0, 2**bits - 1)
            for name, level in (("low", low), ("high", high)):
                layout[f"{signal.layer}.{ACTIVATION}.{name}"].of(statistics[None]).fill_(level)

    @staticmethod
    def start(tensors: SignalTensors, activations: Sequence[Tensor]) -> None:
        """s = 2·mean|x|/√Qp."""
        means = torch.stack([one.abs().mean(dtype=_wide(one)) for one in activations])
        _begin(tensors, 2 * means / _positive(tensors.high).sqrt())

    @staticmethod
    def quantize(tensors: SignalTensors, activations: Tensor, spread: Spread) -> Tensor:
        scale = (_positive(tensors.high) * tensors.signal.features).rsqrt()
        return round_signal(activations, tensors.step, tensors.low, tensors.high, scale, spread)

    @staticmethod
    def step_of(tensors: SignalTensors) -> Tensor:
        return tensors.tensors["step"]

    @staticmethod
    def restrain(layout: Layout, parameters: Tensor) -> Tensor:
        return clamp_steps(layout.activation_steps.of(parameters))


class LiqSignals(LsqSignals):
    """The same levels, with the clip a = s·Qp learned in the place of s: its gradient is that of s divided by Qp, and
    no factor."""

    @staticmethod
    def start(tensors: SignalTensors, activations: Sequence[Tensor]) -> None:
        """a = 1 before a convolution, 0.8·max|x| before a linear layer."""
        if tensors.signal.linear:
            _begin(tensors, START_OF_CLIP * torch.stack([one.abs().max() for one in activations]))
        else:
            tensors.tensors["step"].fill_(1.0)

    @staticmethod
    def quantize(tensors: SignalTensors, activations: Tensor, spread: Spread) -> Tensor:
        return round_signal(activations, tensors.step, tensors.low, tensors.high, None, spread)

    @staticmethod
    def step_of(tensors: SignalTensors) -> Tensor:
        return tensors.tensors["step"] / _positive(tensors.high)


class TensorSignals(LsqSignals):
    """The same levels, and no factor to a step's gradient: the activations of models that are quantized on images, as
    Genie has them (Jeon et al. 2023, arXiv 2212.04780)."""

    @staticmethod
    def quantize(tensors: SignalTensors, activations: Tensor, spread: Spread) -> Tensor:
        return round_signal(activations, tensors.step, tensors.low, tensors.high, None, spread)


def round_signal(
    activations: Tensor, step: Tensor, low: Tensor, high: Tensor, scale: Tensor | None, spread: Spread
) -> Tensor:
    """x̂ of the activations of M models, with steps, levels and the factors of the steps' gradients (M)."""
    rounded: Tensor = _Rounding.apply(activations, step, low, high, scale, spread)
    return rounded


class _Rounding(torch.autograd.Function):
    """`round_signal`, computed in the dtype of the step sizes. What was inside the levels is found again from x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor, scale: Tensor | None, spread: Spread
    ) -> Tensor:
        size, lowest, highest = (spread.over(one) for one in (step, low, high))
        ratio = x.to(step.dtype) / size
        rounded = _clamped(ratio, lowest, highest, out=ratio).round_().mul_(size)
        ctx.save_for_backward(x, rounded, step, low, high, scale)
        ctx.spread = spread
        return rounded.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, rounded, step, low, high, scale = ctx.saved_tensors
        above = gradients[0]
        lowest, highest = ctx.spread.over(low * step), ctx.spread.over(high * step)
        inside = _clamped(x.to(step.dtype), lowest, highest).eq_(x)
        below = (above * inside).to(x.dtype) if ctx.needs_input_grad[0] else None
        shares = torch.addcmul(rounded, x.to(step.dtype), inside, value=-1).mul_(above)
        sums = torch.stack([sum_of(part) for part in ctx.spread.apart(shares)])
        sums = sums / step
        return below, sums if scale is None else sums * scale, None, None, None, None


def _clamped(values: Tensor, lowest: Tensor, highest: Tensor, out: Tensor | None = None) -> Tensor:
    """`torch.clamp`, faster: its kernel for the CPU isn't vectorized where both bounds are broadcast."""
    found = torch.maximum(values, lowest, out=out)
    return torch.minimum(found, highest, out=found)


def _positive(highest: Tensor) -> Tensor:
    """Highest levels (M), with 1 for a vacant row's 0."""
    return highest.clamp(min=1)


def _begin(tensors: SignalTensors, sizes: Tensor) -> None:
    step = tensors.tensors["step"]
    step.copy_(sizes)
    clamp_steps(step[:, None])


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
