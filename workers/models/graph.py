"""The forward pass of M models of any convolutional family: the graph that its layers in `sweeps.models` describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.layers import Layer, NormLayer, Pool
from qsweep.sweeps.models import Convolutional
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.sweeps.signals import Place, Signal, signals_of
from qsweep.workers.forms import LARGE_IMAGE
from qsweep.workers.models.arithmetic import Arithmetic, innermost, pooled
from qsweep.workers.models.convolved import in_turn
from qsweep.workers.models.declaration import ConvLayout, NormSpans, has_bias
from qsweep.workers.models.stage import EPSILON, Moments, NormTensors, StageTensors, evaluate_norm, evaluate_stage
from qsweep.workers.models.statistics import RunningStatistics
from qsweep.workers.models.window import Window
from qsweep.workers.quantizers import ACTIVATION_QUANTIZATIONS
from qsweep.workers.quantizers.activations import ActivationQuantizer as SignalQuantizer
from qsweep.workers.quantizers.activations import SignalTensors, stacked, tensors_of

Activations = TypeVar("Activations")

IMAGES = -1
"""The place of the images among the outputs of the layers."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One layer in the graph: which outputs it reads and adds, and which nobody needs after it."""

    layer: Layer
    window: Window | None
    """Of a convolution."""
    source: int
    residual: int | None
    spent: tuple[int, ...]

    @property
    def of_convolution(self) -> Window:
        """The window of a layer that is one, as that of the first and the last are."""
        assert self.window is not None, f"{self.layer.name} is no convolution"
        return self.window


class ConvNetwork:
    """M models side by side: the layers in their order, then the mean over the remaining pixels.

    A `workers.models.network.Network` whose views are the tensors of its stages.
    """

    draws = 0
    saved = None

    def __init__(self, model: Convolutional, data: DataSet, quantizer: ActivationQuantizer | None = None) -> None:
        layers = model.layers(data)
        self.layout = ConvLayout(layers, *_signals(layers, data, quantizer))
        self.nodes = make_nodes(layers, data.size)
        self.activation = max(layer.activation for layer in layers)

    def views(self, tensors: Mapping[str, Tensor]) -> tuple[StageTensors | NormTensors, ...]:
        signals = tensors_of(self.layout, tensors)
        return tuple(_stage_tensors(layer, tensors, signals.get(layer.name)) for layer in self.layout.layers)

    def signals(self, views: Sequence[StageTensors | NormTensors]) -> list[SignalTensors]:
        return [one.signal for one in views if isinstance(one, StageTensors) and one.signal is not None]

    def train(
        self,
        images: Tensor,
        views: Sequence[StageTensors | NormTensors],
        arithmetic: Arithmetic[Activations],
        draws: Tensor | None = None,
    ) -> tuple[Tensor, list[Moments]]:
        """Logits (M, classes, B) of images (B, channels, side, side), and mean and biased variance (M, C) of each stage
        with batch norm."""
        found: list[Moments] = []

        def step(read: Activations, window: Window, tensors: StageTensors, residual: Activations | None) -> Activations:
            output, moments = arithmetic.stage(read, window, tensors, residual)
            if moments is not None:
                found.append(moments)
            return output

        def normalize(read: Activations, layer: NormLayer, norm: NormTensors) -> Activations:
            output, moments = arithmetic.normalize(read, layer, norm)
            found.append(moments)
            return output

        given = (step, arithmetic.pool, normalize, arithmetic.quantize)
        output = self._follow(arithmetic.enter(images), views, *given)
        return arithmetic.leave(output), found

    def evaluate(self, images: Tensor, views: Sequence[StageTensors | NormTensors]) -> Tensor:
        """Side by side; of large images, whose gathered pixels take too much memory, one model after another."""
        if is_large(images):
            return self.ready(views)(images.contiguous(memory_format=torch.channels_last))
        return self.walk(innermost(images), views, evaluate_stage)

    def ready(self, views: Sequence[StageTensors | NormTensors]) -> Callable[[Tensor], Tensor]:
        """One model after another, batch norm folded into the kernels."""
        return in_turn(self, views)

    def statistics(self, rows: Tensor) -> RunningStatistics:
        return RunningStatistics(self.layout, rows)

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        """Batch norm's γ and β are 1 and 0 then, and its statistics such that it changes nothing. One that stands alone
        has no weights to go into, and stays."""
        layout = self.layout
        factors = torch.ones_like(parameters[: layout.weights])
        stages = self.views(layout.tensors(parameters[None], parameters[None], statistics[None]))
        for spans, stage in zip(layout.spans, stages, strict=True):
            if isinstance(spans, NormSpans) or isinstance(stage, NormTensors) or stage.norm is None:
                continue
            factor, shift = stage.scale_and_shift()
            assert factor is not None
            spans.weight.of(factors[None]).mul_(factor[:, :, None, None, None])
            stage.weight.mul_(factor[:, :, None, None, None])
            stage.bias.copy_(shift)
            for tensor, value in (
                (stage.norm.gamma, 1.0),
                (stage.norm.beta, 0.0),
                (stage.norm.mean, 0.0),
                (stage.norm.variance, 1.0 - EPSILON),
            ):
                tensor.fill_(value)
        return factors

    def walk(
        self,
        images: Tensor,
        stages: Sequence[Any],
        step: Callable[[Tensor, Window, Any, Tensor | None], Tensor],
        pool: Callable[[Tensor, Pool], Tensor] = pooled,
        normalize: Callable[[Tensor, NormLayer, Any], Tensor] = evaluate_norm,
        quantize: Callable[[Tensor, SignalTensors], Tensor] = stacked,
    ) -> Tensor:
        """Every stage in turn, each computed by `step` or, if it is batch norm alone, by `normalize`, and the mean over
        the remaining pixels (dimensions 2, 3)."""
        return self._follow(images, stages, step, pool, normalize, quantize).mean((2, 3))

    def _follow(
        self,
        images: Activations,
        stages: Sequence[Any],
        step: Callable[[Activations, Window, Any, Activations | None], Activations],
        pool: Callable[[Activations, Pool], Activations],
        normalize: Callable[[Activations, NormLayer, Any], Activations],
        quantize: Callable[[Activations, SignalTensors], Activations],
    ) -> Activations:
        """The last stage's output. `step` computes a stage from its input, its window, what it computes with,
        and the residual that it adds; `normalize` one that is batch norm alone. What a stage reads is pooled and
        quantized first; a residual where the stage says what with."""
        outputs = {IMAGES: images}
        self.follow(outputs, range(len(self.nodes)), stages, step, pool, normalize, quantize)
        return outputs[len(self.nodes) - 1]

    def follow(
        self,
        outputs: dict[int, Activations],
        numbers: Sequence[int],
        stages: Sequence[Any],
        step: Callable[[Activations, Window, Any, Activations | None], Activations],
        pool: Callable[[Activations, Pool], Activations],
        normalize: Callable[[Activations, NormLayer, Any], Activations],
        quantize: Callable[[Activations, SignalTensors], Activations],
    ) -> None:
        """The stages of these numbers alone. `outputs` holds what they read, by the number of the stage that puts it
        out, and then what they put out; what no stage needs any more is taken away."""
        for number in numbers:
            node, stage = self.nodes[number], stages[number]
            residual = None if node.residual is None else outputs[node.residual]
            read = outputs[node.source]
            if node.layer.pool is not None:
                read = pool(read, node.layer.pool)
            if isinstance(node.layer, NormLayer):
                output = normalize(read, node.layer, stage)
            else:
                read = read if stage.signal is None else quantize(read, stage.signal)
                if residual is not None and stage.added is not None:
                    residual = quantize(residual, stage.added)
                output = step(read, node.of_convolution, stage, residual)
            after = node.layer.pool_after
            outputs[number] = output if after is None else pool(output, after)
            for one in node.spent:
                del outputs[one]


def make_nodes(layers: Sequence[Layer], size: int) -> tuple[Node, ...]:
    """The graph of `layers` on images with sides of `size` pixels."""
    places = {layer.name: number for number, layer in enumerate(layers)}
    sources = [number - 1 if one.source is None else places[one.source] for number, one in enumerate(layers)]
    residuals = [None if one.residual is None else places[one.residual] for one in layers]
    sides = {IMAGES: size, **{number: layer.side_after for number, layer in enumerate(layers)}}
    last = {place: number for number, read in enumerate(zip(sources, residuals, strict=True)) for place in read}
    return tuple(
        Node(
            layer=layer,
            window=None if isinstance(layer, NormLayer) else Window(layer, pooled_side(sides[source], layer.pool)),
            source=source,
            residual=residual,
            spent=tuple(place for place, user in last.items() if user == number and place is not None),
        )
        for number, (layer, source, residual) in enumerate(zip(layers, sources, residuals, strict=True))
    )


def pooled_side(side: int, pool: Pool | None) -> int:
    """Height and width after the pooling."""
    return side if pool is None else pool.side(side)


def is_large(images: Tensor) -> bool:
    """Whether images (B, channels, side, side) are too large for their pixels to be gathered."""
    return images.shape[-1] ** 2 > LARGE_IMAGE


def _signals(
    layers: Sequence[Layer], data: DataSet, quantizer: ActivationQuantizer | None
) -> tuple[tuple[Signal, ...], type[SignalQuantizer] | None]:
    """The signals that are quantized, and what quantizes them."""
    if quantizer is None:
        return (), None
    found = signals_of(layers, data.size)
    if not quantizer.quantizes_images:
        found = tuple(one for one in found if one.place is not Place.IMAGES)
    return found, ACTIVATION_QUANTIZATIONS[quantizer.name]


def _stage_tensors(
    layer: Layer, tensors: Mapping[str, Tensor], signal: SignalTensors | None
) -> StageTensors | NormTensors:
    name, norm = layer.name, None
    if layer.norm:
        norm = NormTensors(
            gamma=tensors[f"{name}.norm.weight"],
            beta=tensors[f"{name}.norm.bias"],
            mean=tensors[f"{name}.norm.running_mean"],
            variance=tensors[f"{name}.norm.running_var"],
        )
    if isinstance(layer, NormLayer):
        assert norm is not None
        return norm
    weight = tensors[f"{name}.weight"]
    bias = tensors[f"{name}.bias"] if has_bias(layer) else weight.new_zeros(weight.shape[:2])
    return StageTensors(weight=weight, bias=bias, norm=norm, signal=signal)
