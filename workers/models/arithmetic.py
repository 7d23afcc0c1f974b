"""How a form computes the training pass of M models: what travels between their stages, and each stage."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from qsweep.sweeps.layers import NormLayer, Pool
from qsweep.workers.models.stage import Moments, NormTensors, StageTensors, train_norm, train_stage
from qsweep.workers.models.window import Window
from qsweep.workers.quantizers.activations import SignalTensors, stacked

Activations = TypeVar("Activations")


class Arithmetic(Protocol[Activations]):
    """The training pass of one form. Activations are the output of a stage of M models, laid out as the form likes.

    Models never meet: the bits of one depend on its own tensors, on M and on the form.
    """

    def enter(self, images: Tensor) -> Activations:
        """The activations of images (B, channels, side, side) that all models share."""

    def pool(self, activations: Activations, pool: Pool) -> Activations: ...

    def quantize(self, activations: Activations, signal: SignalTensors) -> Activations:
        """The activations of each model, quantized."""

    def stage(
        self, activations: Activations, window: Window, tensors: StageTensors, residual: Activations | None
    ) -> tuple[Activations, Moments | None]:
        """Convolution, batch norm with the batch's own moments, residual and ReLU, of which the layer may lack
        the last three; and these moments, if it has batch norm."""

    def normalize(self, activations: Activations, layer: NormLayer, norm: NormTensors) -> tuple[Activations, Moments]:
        """Batch norm alone, with the batch's own moments, and ReLU if the layer has it; and these moments."""

    def leave(self, activations: Activations) -> Tensor:
        """Logits (M, classes, B): the mean over the remaining pixels."""


class Gathered:
    """Gathered pixels and one batched matrix product a stage; activations are (M, C, side, side, B)."""

    def enter(self, images: Tensor) -> Tensor:
        return innermost(images)

    def pool(self, activations: Tensor, pool: Pool) -> Tensor:
        return pooled(activations, pool)

    def quantize(self, activations: Tensor, signal: SignalTensors) -> Tensor:
        return stacked(activations, signal)

    def stage(
        self, activations: Tensor, window: Window, tensors: StageTensors, residual: Tensor | None
    ) -> tuple[Tensor, Moments | None]:
        return train_stage(activations, window, tensors, residual)

    def normalize(self, activations: Tensor, layer: NormLayer, norm: NormTensors) -> tuple[Tensor, Moments]:
        return train_norm(activations, layer, norm)

    def leave(self, activations: Tensor) -> Tensor:
        return activations.mean((2, 3))


def innermost(images: Tensor) -> Tensor:
    """Images (B, channels, side, side) as one model's activations (1, channels, side, side, B)."""
    return images.permute(1, 2, 3, 0).contiguous().unsqueeze(0)


def pooled(images: Tensor, pool: Pool) -> Tensor:
    """Images (M, C, side, side, B) pooled. With the batch innermost they are, to PyTorch, channels-last."""
    models, channels, *_ = images.shape
    small = pool_planes(images.flatten(0, 1).permute(0, 3, 1, 2), pool)
    return small.permute(0, 2, 3, 1).reshape(models, channels, *small.shape[2:], -1)


def pool_planes(images: Tensor, pool: Pool) -> Tensor:
    """Images (B, C, side, side) pooled."""
    if pool.kind == "max":
        return torch.nn.functional.max_pool2d(images, pool.kernel, pool.stride, pool.padding)
    return torch.nn.functional.avg_pool2d(images, pool.kernel, pool.stride, pool.padding)
