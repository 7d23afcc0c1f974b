"""The forward pass of M models of any convolutional family: the graph that its layers in `sweeps.models` describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.layers import ConvLayer, Pool
from qsweep.sweeps.models import Model
from qsweep.workers.models.arithmetic import Arithmetic, pooled
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.stage import StageTensors, evaluate_stage
from qsweep.workers.models.window import Window

Stage = TypeVar("Stage")
Signal = TypeVar("Signal")

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
    """M models side by side: the layers in their order, then the mean over the remaining pixels."""

    def __init__(self, model: Model, data: DataSet) -> None:
        layers = model.layers(data)
        self.layout = Layout(layers)
        self.nodes = make_nodes(layers, data.size)

    def train(
        self, images: Tensor, stages: Sequence[StageTensors], arithmetic: Arithmetic[Signal]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits (M, classes, B) of images (B, channels, side, side), and the stages' batch moments.

        The moments are mean and biased variance (M, C) of each stage with batch norm.
        """
        means, variances = [], []

        def step(read: Signal, window: Window, tensors: StageTensors, residual: Signal | None) -> Signal:
            output, moments = arithmetic.stage(read, window, tensors, residual)
            if moments is not None:
                means.append(moments[0])
                variances.append(moments[1])
            return output

        output = self._follow(arithmetic.enter(images), stages, step, arithmetic.pool)
        return arithmetic.leave(output), means, variances

    def evaluate(self, images: Tensor, stages: Sequence[StageTensors]) -> Tensor:
        """Logits (M, classes, B) of images (M or 1, channels, side, side, B) with the running statistics."""
        return self.walk(images, stages, evaluate_stage)

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
        images: Signal,
        stages: Sequence[Stage],
        step: Callable[[Signal, Window, Stage, Signal | None], Signal],
        pool: Callable[[Signal, Pool], Signal],
    ) -> Signal:
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


def largest_activation(layers: Sequence[ConvLayer]) -> int:
    """Numbers in the largest activation of one image."""
    return max(layer.outputs * layer.side**2 for layer in layers)
