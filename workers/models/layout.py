"""Where the tensors of a model lie in one flat row, so that M models are one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeps.models import ConvLayer

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
class LayerSpans:
    """The tensors of one convolution and its batch norm, in the parameters' row and the statistics' row."""

    weight: Span
    bias: Span
    gamma: Span
    beta: Span
    mean: Span
    variance: Span


class Layout:
    """The rows of a model: its parameters (weights first, step sizes last) and its batch-norm statistics."""

    def __init__(self, layers: Sequence[ConvLayer]) -> None:
        self.layers = tuple(layers)
        parameters, statistics = _Row(), _Row()
        weights = [parameters.add(one.outputs, one.inputs, one.kernel, one.kernel) for one in layers]
        biases, gammas, betas = ([parameters.add(one.outputs) for one in layers] for _ in range(3))
        means, variances = ([statistics.add(one.outputs) for one in layers] for _ in range(2))
        self.weights = weights[-1].stop
        self.biases = slice(biases[0].start, biases[-1].stop)
        self.means = slice(means[0].start, means[-1].stop)
        self.variances = slice(variances[0].start, variances[-1].stop)
        self.spans = tuple(
            LayerSpans(weight=weight, bias=bias, gamma=gamma, beta=beta, mean=mean, variance=variance)
            for weight, bias, gamma, beta, mean, variance in zip(
                weights, biases, gammas, betas, means, variances, strict=True
            )
        )
        self.steps = parameters.add(len(layers))
        self.parameters_length = parameters.padded
        self.statistics_length = statistics.padded

    def initial_parameters(self, seed: int) -> Tensor:
        """One row as PyTorch initializes the plain modules, one after the other, under `seed` (CPU, float32).

        Step sizes are 1, and unused, until a quantizer sets them.
        """
        row = torch.zeros(1, self.parameters_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer, spans in zip(self.layers, self.spans, strict=True):
                conv = torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel)
                spans.weight.of(row)[0] = conv.weight.detach()
                spans.bias.of(row)[0] = conv.bias.detach() if conv.bias is not None else 0.0
                spans.gamma.of(row)[0] = 1.0
        self.steps.of(row)[0] = 1.0
        return row[0]

    def initial_statistics(self) -> Tensor:
        """Running means 0 and variances 1 (float32)."""
        row = torch.zeros(1, self.statistics_length)
        for spans in self.spans:
            spans.variance.of(row)[0] = 1.0
        return row[0]

    def named(self, parameters: Tensor, statistics: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of one model, as its rows hold them, to be kept as plain tensors."""
        rows, moments = parameters.unsqueeze(0), statistics.unsqueeze(0)
        for index, (layer, spans) in enumerate(zip(self.layers, self.spans, strict=True)):
            yield f"{layer.name}.weight", spans.weight.of(rows)[0]
            yield f"{layer.name}.bias", spans.bias.of(rows)[0]
            yield f"{layer.name}.step", self.steps.of(rows)[0, index]
            yield f"{layer.name}.norm.weight", spans.gamma.of(rows)[0]
            yield f"{layer.name}.norm.bias", spans.beta.of(rows)[0]
            yield f"{layer.name}.norm.running_mean", spans.mean.of(moments)[0]
            yield f"{layer.name}.norm.running_var", spans.variance.of(moments)[0]

    def packed(self, model: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The rows (parameters, statistics) of a model that `named` gave, in its dtype."""
        dtype = next(iter(model.values())).dtype
        parameters = torch.zeros(self.parameters_length, dtype=dtype)
        statistics = torch.zeros(self.statistics_length, dtype=dtype)
        for name, place in self.named(parameters, statistics):
            place.copy_(model[name])
        return parameters, statistics


class _Row:
    def __init__(self) -> None:
        self.stop = 0

    def add(self, *shape: int) -> Span:
        span = Span(start=self.stop, shape=shape)
        self.stop = span.stop
        return span

    @property
    def padded(self) -> int:
        return -(-self.stop // ALIGNMENT) * ALIGNMENT
