"""The trained model that images are synthesized from: what batch norm sees of them beside what it has stored.

It is the engine's own graph of the network, walked by a step of its own. Its tensors are fixed: gradients go to the
pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

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


Moments: TypeAlias = tuple[Tensor, Tensor]
"""Mean and unbiased variance of the channels of some images, each (C)."""


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
        norms = [one if isinstance(one, StoredNorm) else one.norm for one in self._stages]
        self._distance = Distance([one for one in norms if one is not None])
        self.strided = sum(isinstance(layer, ConvLayer) and layer.stride != 1 for layer in layout.layers)
        """How many convolutions there are that swing."""

    def see(self, images: Tensor, shifts: Sequence[Shift] | None = None) -> Seen:
        """What the network makes of images (B, channels, side, side); strided convolutions swing by these shifts.

        The losses are Genie's: d(A, B) = ‖A − B‖²/rows(A), summed over means and deviations; of each image and channel
        over its pixels, against 0 and 1 (`image_loss`), and of each batch norm's input over batch and pixels, against
        what it stores (`statistics_loss`). Deviations are the unbiased ones.
        """
        moments: list[Moments] = []
        features: list[Tensor] = []
        left = iter(shifts or ())

        def observed(read: Tensor, norm: StoredNorm) -> Tensor:
            output, both = observe(read, norm)
            moments.append(both)
            return output

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
                output = observed(output, stage.norm)
            if residual is not None:
                output.add_(residual)
            return activate(output, layer)

        def normalize(read: Tensor, layer: NormLayer, stage: StoredNorm) -> Tensor:
            return activate(observed(read, stage), layer)

        images = images.contiguous(memory_format=torch.channels_last)
        logits = self._network.walk(images, self._stages, step, pool_planes, normalize)
        return Seen(
            logits=logits,
            features=features[0],
            image_loss=image_loss(images),
            statistics_loss=self._distance(moments),
        )


def image_loss(images: Tensor) -> Tensor:
    """(Σ mean² + Σ (deviation − 1)²)/B over every channel of images (B, C, side, side)."""
    deviation, mean = torch.std_mean(images, (2, 3))
    return (mean.square().sum() + (deviation - 1).square().sum()) / len(images)


def observe(images: Tensor, norm: StoredNorm) -> tuple[Tensor, Moments]:
    """Batch norm of images (B, C, side, side) by what it stores, and the moments that the images have."""
    output, mean, variance = _Observe.apply(images, norm.scale, norm.shift)
    return output, (mean, variance)


class _Observe(torch.autograd.Function):
    """`observe` with the gradient of all three in one pass over the pixels.

    With N pixels a channel, ∂mean/∂x = 1/N and ∂variance/∂x = 2·(x − mean)/(N − 1): the gradient is scale·∂output +
    a·x + b with a and b of a channel.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Batch norm's own moments: channels-last, `torch.var_mean` takes ten times as long on a processor.
        mean, variance = torch.batch_norm_update_stats(images, None, None, 0.0)
        pixels = images.numel() // len(mean)
        ctx.save_for_backward(images, scale, mean)
        return torch.addcmul(_wide(shift), images, _wide(scale)), mean, variance.mul_(pixels / (pixels - 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, scale, mean = ctx.saved_tensors
        outer, of_mean, of_variance = gradients
        pixels = images.numel() // len(mean)
        slope = of_variance * (2 / (pixels - 1))
        level = torch.addcmul(of_mean / pixels, slope, mean, value=-1)
        inner = torch.addcmul(_wide(level), images, _wide(slope))
        return inner.addcmul_(outer, _wide(scale)), None, None


class Distance:
    """How far moments are from what batch norms store: Σ (‖mean − stored mean‖² + ‖deviation − stored deviation‖²)/C,
    of all of them in one go."""

    def __init__(self, norms: Sequence[StoredNorm]) -> None:
        self._means = torch.cat([one.mean for one in norms])
        self._deviations = torch.cat([one.deviation for one in norms])
        self._shares = torch.cat([torch.full_like(one.mean, 1 / len(one.mean)) for one in norms])

    def __call__(self, moments: Sequence[Moments]) -> Tensor:
        means, variances = (torch.cat(one) for one in zip(*moments, strict=True))
        deviations = variances.clamp(min=torch.finfo(variances.dtype).tiny).sqrt()  # where all are equal, no gradient
        apart = (means - self._means).square() + (deviations - self._deviations).square()
        return (self._shares * apart).sum()


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
