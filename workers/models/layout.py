"""Where the tensors of a model lie in one flat row, so that M models are one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer

ALIGNMENT = 32
"""Row lengths are multiples of this many elements: no row ends in a vector kernel's scalar tail."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tensor of shape `shape`, at `start` in a row."""

    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def of(self, rows: Tensor) -> Tensor:
        """The tensor of every row: a view (M, *shape) into `rows` (M, P)."""
        return rows[:, self.start : self.stop].view(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class NormSpans:
    """The tensors of one batch norm, in the parameters' row and the statistics' row."""

    gamma: Span
    beta: Span
    mean: Span
    variance: Span


@dataclass(frozen=True, kw_only=True)
class LayerSpans:
    """The tensors of one layer. One without a bias has it all the same, at zero: folding fills it."""

    weight: Span
    bias: Span
    norm: NormSpans | None

    @property
    def trained(self) -> tuple[Span, ...]:
        """What gets a gradient from the training loss: batch norm cancels a bias under it."""
        return (self.weight, self.bias) if self.norm is None else (self.weight, self.norm.gamma, self.norm.beta)

    @property
    def affine(self) -> tuple[Span, ...]:
        """Weight, bias, and γ and β of batch norm."""
        return (self.weight, self.bias) if self.norm is None else (self.weight, self.bias, *self.trained[1:])


class Layout:
    """The rows of a model: its parameters (weights first, step sizes last) and its batch-norm statistics."""

    def __init__(self, layers: Sequence[ConvLayer]) -> None:
        self.layers = tuple(layers)
        normed = [one for one in layers if one.norm]
        parameters, statistics = _Row(), _Row()
        weights = [parameters.add(*weight_shape(one)) for one in layers]
        self.weights = weights[-1].stop
        self.biases, biases = parameters.add_all((one.outputs,) for one in normed)
        _, gammas = parameters.add_all((one.outputs,) for one in normed)
        _, betas = parameters.add_all((one.outputs,) for one in normed)
        self.means, means = statistics.add_all((one.outputs,) for one in normed)
        self.variances, variances = statistics.add_all((one.outputs,) for one in normed)
        norms = (
            NormSpans(gamma=gamma, beta=beta, mean=mean, variance=variance)
            for gamma, beta, mean, variance in zip(gammas, betas, means, variances, strict=True)
        )
        under_norm = iter(biases)
        self.spans = tuple(
            LayerSpans(
                weight=weight,
                bias=next(under_norm) if layer.norm else parameters.add(layer.outputs),
                norm=next(norms) if layer.norm else None,
            )
            for layer, weight in zip(layers, weights, strict=True)
        )
        self.steps = parameters.add(len(layers))
        self.omega = sum(layer.weights for layer in layers if layer.counted)
        self.parameters_length = parameters.padded
        self.statistics_length = statistics.padded

    def counted(self, row: Tensor) -> Tensor:
        """The ω weights of one model's `row` (P, or the weights alone) that norms and bounds are taken over."""
        if self.omega == self.weights:
            return row[: self.weights]
        spans = (one.weight for one, layer in zip(self.spans, self.layers, strict=True) if layer.counted)
        return torch.cat([row[span.start : span.stop] for span in spans])

    def initial_parameters(self, seed: int) -> Tensor:
        """One row as PyTorch or torchvision initializes the plain modules, one after the other, under `seed` (CPU,
        float32).

        A linear layer draws what a 1×1 convolution draws. Step sizes are 1, and unused, until a quantizer
        sets them.
        """
        row = torch.zeros(1, self.parameters_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer, spans in zip(self.layers, self.spans, strict=True):
                groups = layer.inputs if layer.depthwise else 1
                conv = torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, bias=layer.bias, groups=groups)
                _initialize(conv, layer.init)
                spans.weight.of(row)[0] = conv.weight.detach()
                if conv.bias is not None:
                    spans.bias.of(row)[0] = conv.bias.detach()
                if spans.norm is not None:
                    spans.norm.gamma.of(row)[0] = 1.0
        self.steps.of(row)[0] = 1.0
        return row[0]

    def initial_statistics(self) -> Tensor:
        """Running means 0 and variances 1 (float32)."""
        row = torch.zeros(self.statistics_length)
        row[self.variances] = 1.0
        return row

    def named(self, parameters: Tensor, statistics: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of one model, as its rows hold them, to be kept as plain tensors."""
        rows, moments = parameters.unsqueeze(0), statistics.unsqueeze(0)
        for index, (layer, spans) in enumerate(zip(self.layers, self.spans, strict=True)):
            yield f"{layer.name}.weight", spans.weight.of(rows)[0]
            if layer.bias:
                yield f"{layer.name}.bias", spans.bias.of(rows)[0]
            yield f"{layer.name}.step", self.steps.of(rows)[0, index]
            if spans.norm is not None:
                yield f"{layer.name}.norm.weight", spans.norm.gamma.of(rows)[0]
                yield f"{layer.name}.norm.bias", spans.norm.beta.of(rows)[0]
                yield f"{layer.name}.norm.running_mean", spans.norm.mean.of(moments)[0]
                yield f"{layer.name}.norm.running_var", spans.norm.variance.of(moments)[0]

    def packed(self, model: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The rows (parameters, statistics) of a model that `named` gave, in its dtype."""
        dtype = next(iter(model.values())).dtype
        parameters = torch.zeros(self.parameters_length, dtype=dtype)
        statistics = torch.zeros(self.statistics_length, dtype=dtype)
        for name, place in self.named(parameters, statistics):
            place.copy_(model[name])
        return parameters, statistics


def _initialize(conv: torch.nn.Conv2d, init: str) -> None:
    """Draw again what torchvision's networks for ImageNet draw in their own way."""
    if init == "fan-out":
        torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    elif init == "small":
        torch.nn.init.normal_(conv.weight, 0, 0.01)
        if conv.bias is not None:
            torch.nn.init.zeros_(conv.bias)


def weight_shape(layer: ConvLayer) -> tuple[int, int, int, int]:
    """The shape of a layer's weight in one model."""
    return layer.outputs, layer.reads, layer.kernel, layer.kernel


class _Row:
    def __init__(self) -> None:
        self.stop = 0

    def add(self, *shape: int) -> Span:
        span = Span(start=self.stop, shape=shape)
        self.stop = span.stop
        return span

    def add_all(self, shapes: Iterable[tuple[int, ...]]) -> tuple[slice, list[Span]]:
        """Several tensors in one run: where it lies, and each of them."""
        start = self.stop
        spans = [self.add(*shape) for shape in shapes]
        return slice(start, self.stop), spans

    @property
    def padded(self) -> int:
        return -(-self.stop // ALIGNMENT) * ALIGNMENT
