"""The forward pass of M models of any convolutional family: the graph that its layers in `sweeps.models` describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.layers import ConvLayer, Pool
from qsweep.sweeps.models import Convolutional
from qsweep.workers.forms import LARGE_IMAGE
from qsweep.workers.models.arithmetic import Arithmetic, innermost, pooled
from qsweep.workers.models.convolved import in_turn
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.stage import EPSILON, Moments, NormTensors, StageTensors, evaluate_stage
from qsweep.workers.models.statistics import RunningStatistics
from qsweep.workers.models.window import Window

Stage = TypeVar("Stage")
Activations = TypeVar("Activations")

IMAGES = -1
"""The place of the images among the outputs of the layers."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One layer in the graph: which outputs it reads and adds, and which nobody needs after it."""

    window: Window
    source: int
    residual: int | None
    spent: tuple[int, ...]


class ConvNetwork:
    """M models side by side: the layers in their order, then the mean over the remaining pixels.

    A `workers.models.network.Network` whose views are the tensors of its stages.
    """

    draws = 0
    saved = None

    def __init__(self, model: Convolutional, data: DataSet) -> None:
        layers = model.layers(data)
        self.layout = ConvLayout(layers)
        self.nodes = make_nodes(layers, data.size)
        self.activation = max(layer.activation for layer in layers)

    def views(self, tensors: Mapping[str, Tensor]) -> tuple[StageTensors, ...]:
        return tuple(_stage_tensors(layer, tensors) for layer in self.layout.layers)

    def train(
        self,
        images: Tensor,
        views: Sequence[StageTensors],
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

        output = self._follow(arithmetic.enter(images), views, step, arithmetic.pool)
        return arithmetic.leave(output), found

    def evaluate(self, images: Tensor, views: Sequence[StageTensors]) -> Tensor:
        """Side by side; of large images, whose gathered pixels take too much memory, one model after another."""
        if is_large(images):
            return self.ready(views)(images.contiguous(memory_format=torch.channels_last))
        return self.walk(innermost(images), views, evaluate_stage)

    def ready(self, views: Sequence[StageTensors]) -> Callable[[Tensor], Tensor]:
        """One model after another, batch norm folded into the kernels."""
        return in_turn(self, views)

    def statistics(self, rows: Tensor) -> RunningStatistics:
        return RunningStatistics(self.layout, rows)

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        """Batch norm's γ and β are 1 and 0 then, and its statistics such that it changes nothing."""
        layout = self.layout
        factors = torch.ones_like(parameters[: layout.weights])
        stages = self.views(layout.tensors(parameters[None], parameters[None], statistics[None]))
        for spans, stage in zip(layout.spans, stages, strict=True):
            factor, shift = stage.scale_and_shift()
            if stage.norm is None or factor is None:
                continue
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
        stages: Sequence[Stage],
        step: Callable[[Tensor, Window, Stage, Tensor | None], Tensor],
        pool: Callable[[Tensor, Pool], Tensor] = pooled,
    ) -> Tensor:
        """Every stage in turn, each computed by `step`, and the mean over the remaining pixels (dimensions 2, 3)."""
        return self._follow(images, stages, step, pool).mean((2, 3))

    def _follow(
        self,
        images: Activations,
        stages: Sequence[Stage],
        step: Callable[[Activations, Window, Stage, Activations | None], Activations],
        pool: Callable[[Activations, Pool], Activations],
    ) -> Activations:
        """The last stage's output. `step` computes a stage from its input, its window, what it computes with,
        and the residual that it adds."""
        outputs = {IMAGES: images}
        for number, (node, stage) in enumerate(zip(self.nodes, stages, strict=True)):
            residual = None if node.residual is None else outputs[node.residual]
            read = outputs[node.source]
            if node.window.layer.pool is not None:
                read = pool(read, node.window.layer.pool)
            output = step(read, node.window, stage, residual)
            after = node.window.layer.pool_after
            outputs[number] = output if after is None else pool(output, after)
            for one in node.spent:
                del outputs[one]
        return outputs[len(self.nodes) - 1]


def make_nodes(layers: Sequence[ConvLayer], size: int) -> tuple[Node, ...]:
    """The graph of `layers` on images with sides of `size` pixels."""
    places = {layer.name: number for number, layer in enumerate(layers)}
    sources = [number - 1 if one.source is None else places[one.source] for number, one in enumerate(layers)]
    residuals = [None if one.residual is None else places[one.residual] for one in layers]
    sides = {IMAGES: size, **{number: layer.side_after for number, layer in enumerate(layers)}}
    last = {place: number for number, read in enumerate(zip(sources, residuals, strict=True)) for place in read}
    return tuple(
        Node(
            window=Window(layer, pooled_side(sides[source], layer.pool)),
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


def _stage_tensors(layer: ConvLayer, tensors: Mapping[str, Tensor]) -> StageTensors:
    name, norm = layer.name, None
    if layer.norm:
        norm = NormTensors(
            gamma=tensors[f"{name}.norm.weight"],
            beta=tensors[f"{name}.norm.bias"],
            mean=tensors[f"{name}.norm.running_mean"],
            variance=tensors[f"{name}.norm.running_var"],
        )
    return StageTensors(weight=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"], norm=norm)
