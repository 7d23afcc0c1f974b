"""The forward pass of M models of any convolutional family: the graph that its layers in `sweeps.models` describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from sweeps.datasets import DataSet
from sweeps.layers import ConvLayer, Pool
from sweeps.models import Model
from workers.models.layout import Layout
from workers.models.stage import StageTensors, evaluate_stage, train_stage
from workers.models.window import Window

Stage = TypeVar("Stage")
Step: TypeAlias = Callable[[Tensor, Window, Stage, Tensor | None], Tensor]
"""Computes one stage from its input, its window, what it computes with, and the residual that it adds."""

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

    def train(self, images: Tensor, stages: Sequence[StageTensors]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits (M, classes, B) of images (M or 1, channels, side, side, B), and the stages' batch moments.

        The moments are mean and biased variance (M, C) of each stage with batch norm.
        """
        means, variances = [], []

        def step(images: Tensor, window: Window, tensors: StageTensors, residual: Tensor | None) -> Tensor:
            output, moments = train_stage(images, window, tensors, residual)
            if moments is not None:
                means.append(moments[0])
                variances.append(moments[1])
            return output

        return self.walk(images, stages, step), means, variances

    def evaluate(self, images: Tensor, stages: Sequence[StageTensors]) -> Tensor:
        """Logits (M, classes, B) with the running statistics; differentiable."""
        return self.walk(images, stages, evaluate_stage)

    def walk(self, images: Tensor, stages: Sequence[Stage], step: Step[Stage]) -> Tensor:
        """Every stage in turn, each computed by `step`, and the mean over the remaining pixels."""
        outputs = {IMAGES: images}
        for number, (node, stage) in enumerate(zip(self.nodes, stages, strict=True)):
            residual = None if node.residual is None else outputs[node.residual]
            read = outputs[node.source]
            if node.window.layer.pool is not None:
                read = pooled(read, node.window.layer.pool)
            outputs[number] = step(read, node.window, stage, residual)
            for one in node.spent:
                del outputs[one]
        return outputs[len(self.nodes) - 1].mean((2, 3))


def make_nodes(layers: Sequence[ConvLayer], size: int) -> tuple[Node, ...]:
    """The graph of `layers` on images with sides of `size` pixels."""
    places = {layer.name: number for number, layer in enumerate(layers)}
    sources = [number - 1 if one.source is None else places[one.source] for number, one in enumerate(layers)]
    residuals = [None if one.residual is None else places[one.residual] for one in layers]
    sides = {IMAGES: size, **{number: layer.side for number, layer in enumerate(layers)}}
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
    return side if pool is None else (side + 2 * pool.padding - pool.kernel) // pool.stride + 1


def pooled(images: Tensor, pool: Pool) -> Tensor:
    """Images (M, C, side, side, B) pooled. With the batch innermost they are, to PyTorch, channels-last."""
    models, channels, *_ = images.shape
    rows = images.flatten(0, 1).permute(0, 3, 1, 2)
    if pool.kind == "max":
        small = torch.nn.functional.max_pool2d(rows, pool.kernel, pool.stride, pool.padding)
    else:
        small = torch.nn.functional.avg_pool2d(rows, pool.kernel, pool.stride, pool.padding)
    return small.permute(0, 2, 3, 1).reshape(models, channels, *small.shape[2:], -1)
