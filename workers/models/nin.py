"""Network in Network (Dziugaite et al. 2020): its geometry stands in `sweeps.models`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from sweeps.datasets import DataSet
from sweeps.models import NiN
from workers.models.layout import Layout
from workers.models.stage import StageTensors, evaluate_stage, train_stage
from workers.models.window import Window

Stage = TypeVar("Stage")


class NinNetwork:
    """The forward pass of M NiNs: a chain of stages, then the mean over the remaining pixels."""

    def __init__(self, model: NiN, data: DataSet) -> None:
        layers = model.layers(data)
        self.layout = Layout(layers)
        sides = (data.size, *(layer.side for layer in layers))
        self.windows = tuple(Window(layer, side) for layer, side in zip(layers, sides, strict=False))

    def train(self, images: Tensor, stages: Sequence[StageTensors]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits (M, classes, B) of images (M or 1, channels, side, side, B), and the stages' batch moments.

        The moments are mean and biased variance (M, C) of each stage.
        """
        means, variances = [], []
        for window, tensors in zip(self.windows, stages, strict=True):
            images, mean, variance = train_stage(images, window, tensors)
            means.append(mean)
            variances.append(variance)
        return images.mean((2, 3)), means, variances

    def evaluate(self, images: Tensor, stages: Sequence[StageTensors]) -> Tensor:
        """Logits (M, classes, B) with the running statistics; differentiable."""
        return self.walk(images, stages, evaluate_stage)

    def walk(self, images: Tensor, stages: Sequence[Stage], step: Callable[[Tensor, Window, Stage], Tensor]) -> Tensor:
        """The chain of stages, each computed by `step`, and the mean over the remaining pixels."""
        for window, stage in zip(self.windows, stages, strict=True):
            images = step(images, window, stage)
        return images.mean((2, 3))
