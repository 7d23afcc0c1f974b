"""Network in Network (Dziugaite et al. 2020): its geometry stands in `sweeps.models`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sweeps.datasets import DataSet
from sweeps.models import NiN
from workers.models.layout import Layout
from workers.models.stage import EvaluationStage, StageTensors, evaluate_stage, train_stage
from workers.models.window import Window


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

    def evaluate(
        self, images: Tensor, stages: Sequence[StageTensors], stage: EvaluationStage = evaluate_stage
    ) -> Tensor:
        """Logits (M, classes, B) with the running statistics; differentiable, unless `stage` is not."""
        for window, tensors in zip(self.windows, stages, strict=True):
            images = stage(images, window, tensors)
        return images.mean((2, 3))
