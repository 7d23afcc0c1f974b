"""The trained model that images are synthesized from: what batch norm sees of them beside what it has stored.

It is the engine's own graph of the network, walked by a step of its own. Its tensors are fixed: gradients go to the
pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import ConvLayer, NormLayer
from qsweep.sweeps.training import Training
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.convolved import thinned
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.stage import NormTensors, StageTensors, activate
from qsweep.workers.models.window import Window
from qsweep.workers.zero_shot.swing import Shift, swung

DEVIATION_EPSILON = 1e-6
"""Added to the running variance before its root is compared with a deviation: Genie's, which is not batch norm's."""


@dataclass(frozen=True, kw_only=True)
class StoredNorm:
    """One batch norm in evaluation mode, each (C): scale·x + shift, and the statistics that it stores."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True, kw_only=True)
class TeacherStage:
    """A convolution (outputs, reads, k, k), its bias (outputs) if it has one, and its batch norm if it has one."""

    signal: ClassVar[None] = None
    added: ClassVar[None] = None
    """What it reads and adds is not quantized."""

    weight: Tensor
    bias: Tensor | None
    norm: StoredNorm | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a pass of images showed."""

    logits: Tensor
    """(B, classes)."""
    features: Tensor
    """What the last layer reads (B, F), the mean over its pixels."""
    image_loss: Tensor
    statistics_loss: Tensor


class Teacher:
    """A trained model in evaluation mode, on images that are standardized as in its training."""

    def __init__(
        self, training: Training, model: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        network = NETWORKS[training.model.name](training.model, training.data)
        assert isinstance(network, ConvNetwork), "a convolutional network was asked for before"
        layout = network.layout
        parameters, statistics = (row[None].to(device, dtype) for row in layout.packed(model))
        views = network.views(layout.tensors(parameters, parameters, statistics))
        self._network = network
        self._stages = [_stored(one) if isinstance(one, NormTensors) else _stage(one) for one in views]
        self._classes = training.data.classes
        self.strided = sum(isinstance(layer, ConvLayer) and layer.stride != 1 for layer in layout.layers)
        """How many convolutions there are that swing."""

    def see(self, images: Tensor, shifts: Sequence[Shift] | None = None) -> Seen:
        """What the network makes of images (B, channels, side, side); strided convolutions swing by these shifts.

        The losses are Genie's: d(A, B) = ‖A − B‖²/rows(A), summed over means and deviations; of each image and channel
        over its pixels, against 0 and 1 (`image_loss`), and of each batch norm's input over batch and pixels, against
        what it stores (`statistics_loss`). Deviations are the unbiased ones.
        """
        terms: list[Tensor] = []
        features: list[Tensor] = []
        left = iter(shifts or ())

        def step(read: Tensor, window: Window, stage: TeacherStage, residual: Tensor | None) -> Tensor:
            layer = window.layer
            if stage is self._stages[-1]:
                features.append(read.mean((2, 3)))
            if layer.stride != 1 and shifts is not None:
                read = swung(read, next(left))
            read, stride = thinned(read, layer)
            groups = layer.inputs if layer.depthwise else 1
            output = F.conv2d(read, stage.weight, stage.bias, stride=stride, padding=layer.padding, groups=groups)
            if stage.norm is not None:
                output, term = observe(output, stage.norm)
                terms.append(term)
            if residual is not None:
                output.add_(residual)
            return activate(output, layer)

        def normalize(read: Tensor, layer: NormLayer, stage: StoredNorm) -> Tensor:
            output, term = observe(read, stage)
            terms.append(term)
            return activate(output, layer)

        images = images.contiguous(memory_format=torch.channels_last)
        logits = self._network.walk(images, self._stages, step, pool_planes, normalize)
        return Seen(
            logits=logits,
            features=features[0],
            image_loss=image_loss(images),
            statistics_loss=torch.stack(terms).sum(),
        )


def image_loss(images: Tensor) -> Tensor:
    """(Σ mean² + Σ (deviation − 1)²)/B over every channel of images (B, C, side, side)."""
    deviation, mean = torch.std_mean(images, (2, 3))
    return (mean.square().sum() + (deviation - 1).square().sum()) / len(images)


def observe(images: Tensor, norm: StoredNorm) -> tuple[Tensor, Tensor]:
    """Batch norm of images (B, C, side, side) by what it stores, and how far their moments are from that:
    (‖mean − stored mean‖² + ‖deviation − stored deviation‖²)/C."""
    found: tuple[Tensor, Tensor] = _Observe.apply(images, norm.scale, norm.shift, norm.mean, norm.deviation)
    return found


class _Observe(torch.autograd.Function):
    """`observe` with the gradient of both in one pass over the pixels.

    With N pixels a channel, ∂mean/∂x = 1/N and ∂deviation/∂x = (x − mean)/((N − 1)·deviation), 0 where all are equal:
    the gradient is scale·∂output + a·x + b with a and b of a channel.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, scale: Tensor, shift: Tensor, stored_mean: Tensor, stored_deviation: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Batch norm's own moments: channels-last, `torch.var_mean` takes ten times as long on a processor.
        mean, variance = torch.batch_norm_update_stats(images, None, None, 0.0)
        pixels = images.numel() // len(mean)
        deviation = (variance * (pixels / (pixels - 1))).sqrt()
        too_high, too_wide = mean - stored_mean, deviation - stored_deviation
        channels = len(mean)
        ctx.save_for_backward(images, scale, mean, deviation, too_high, too_wide)
        output = torch.addcmul(_wide(shift), images, _wide(scale))
        return output, (too_high.square().sum() + too_wide.square().sum()) / channels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, scale, mean, deviation, too_high, too_wide = ctx.saved_tensors
        outer, of_term = gradients
        channels, pixels = len(mean), images.numel() // len(mean)
        twice = 2 * of_term / channels
        slope = torch.where(deviation > 0, twice * too_wide / ((pixels - 1) * deviation), 0.0)
        level = twice * too_high / pixels - slope * mean
        inner = torch.addcmul(_wide(level), images, _wide(slope))
        return inner.addcmul_(outer, _wide(scale)), None, None, None, None


def _wide(column: Tensor) -> Tensor:
    return column[:, None, None]


def _stage(tensors: StageTensors) -> TeacherStage:
    """The stage of the one model that there is."""
    bias = tensors.bias[0]
    return TeacherStage(
        weight=tensors.weight[0].contiguous(memory_format=torch.channels_last),
        bias=bias if bool(bias.any()) else None,
        norm=None if tensors.norm is None else _stored(tensors.norm),
    )


def _stored(norm: NormTensors) -> StoredNorm:
    scale, shift = norm.scale_and_shift()
    return StoredNorm(
        scale=scale[0], shift=shift[0], mean=norm.mean[0], deviation=(norm.variance[0] + DEVIATION_EPSILON).sqrt()
    )
