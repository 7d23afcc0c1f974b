"""The library's own convolutions (cuDNN, oneDNN), channels-last: grouped over the models, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import ConvLayer, Layer, NormLayer, Pool
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.stage import EPSILON, Moments, NormTensors, StageTensors, activate, bounded
from qsweep.workers.models.window import Window
from qsweep.workers.quantizers.activations import SignalTensors, side_by_side


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Each part (B, m·C, side, side) holds m models side by side; one part alone may be the images of all.

    `channels` are those of one model, without what they are filled up with.
    """

    parts: list[Tensor]
    channels: int
    shared: bool = False


class Convolved:
    """Convolutions by `torch.nn.functional.conv2d` in `dtype`, with batch norm's moments in the parameters' dtype.

    `grouped` takes all models as groups of one convolution, otherwise each is a convolution of its own. Channels
    are filled up with zeros to a multiple of `multiple`, where the device is faster for that: they stay zero, and
    so do their gradients.
    """

    def __init__(self, *, grouped: bool, dtype: torch.dtype, multiple: int = 1) -> None:
        self._grouped, self._dtype, self._multiple = grouped, dtype, multiple
        self.reduced = dtype if dtype is torch.bfloat16 else None
        """The dtype of products, where it is another than that of the parameters."""

    def enter(self, images: Tensor) -> Planes:
        part = images.to(self._dtype, memory_format=torch.channels_last)
        return Planes(parts=[part], channels=part.shape[1], shared=True)

    def pool(self, activations: Planes, pool: Pool) -> Planes:
        return replace(activations, parts=[pool_planes(part, pool) for part in activations.parts])

    def quantize(self, activations: Planes, signal: SignalTensors) -> Planes:
        models, channels = len(signal.tensors["step"]), activations.channels
        parts = []
        for number, run in enumerate(self._runs(models)):
            part = activations.parts[0 if activations.shared else number]
            if activations.shared:
                part = _filled(part, 1, self._multiple).repeat(1, run.stop - run.start, 1, 1)
                part = part.contiguous(memory_format=torch.channels_last)
            parts.append(side_by_side(part, signal.of(run), channels))
        return Planes(parts=parts, channels=channels)

    def stage(
        self, activations: Planes, window: Window, tensors: StageTensors, residual: Planes | None
    ) -> tuple[Planes, Moments | None]:
        models, channels = tensors.weight.shape[:2]
        outputs, means, variances = [], [], []
        for number, run in enumerate(self._runs(models)):
            part = activations.parts[0 if activations.shared else number]
            output = self._convolve(part, window, tensors, run, shared=activations.shared)
            added = None if residual is None else residual.parts[number]
            if tensors.norm is None:
                outputs.append(_activated(output, window.layer, added))
                continue
            output, both = self.finish(output, window.layer, tensors.norm, run, added)
            outputs.append(output)
            mean, variance = (one.view(run.stop - run.start, -1)[:, :channels] for one in both)
            means.append(mean)
            variances.append(variance)
        moments = (torch.cat(means), torch.cat(variances)) if means else None
        return Planes(parts=outputs, channels=channels), moments

    def normalize(self, activations: Planes, layer: NormLayer, norm: NormTensors) -> tuple[Planes, Moments]:
        models, channels = norm.gamma.shape
        outputs, means, variances = [], [], []
        for part, run in zip(activations.parts, self._runs(models), strict=True):
            output, both = self.finish(part, layer, norm, run, None)
            outputs.append(output)
            mean, variance = (one.view(run.stop - run.start, -1)[:, :channels] for one in both)
            means.append(mean)
            variances.append(variance)
        return Planes(parts=outputs, channels=channels), (torch.cat(means), torch.cat(variances))

    def _runs(self, models: int) -> list[slice]:
        """The models of each part."""
        return [slice(0, models)] if self._grouped else [slice(one, one + 1) for one in range(models)]

    def finish(
        self, output: Tensor, layer: Layer, norm: NormTensors, run: slice, residual: Tensor | None
    ) -> tuple[Tensor, Moments]:
        """What becomes of a convolution's output (B, m·C, side, side): batch norm, residual and ReLU; and its moments,
        each (m·C), filled channels included."""
        gamma, beta = self.columns(norm, run)
        # With a momentum of 1 the "running" statistics are the batch's own; the variance is the unbiased one.
        mean, variance = torch.zeros_like(gamma), torch.ones_like(gamma)
        pixels = output.numel() // output.shape[1]
        output = F.batch_norm(output, mean, variance, gamma, beta, training=True, momentum=1.0, eps=EPSILON)
        variance = variance * ((pixels - 1) / pixels)
        return _activated(output, layer, residual), (mean.detach(), variance.detach())

    def columns(self, norm: NormTensors, run: slice) -> tuple[Tensor, Tensor]:
        """γ and β of a run of models (m·C), filled up."""
        gamma, beta = (_filled(one[run], 1, self._multiple).reshape(-1) for one in (norm.gamma, norm.beta))
        return gamma, beta

    def leave(self, activations: Planes) -> Tensor:
        wide = torch.float64 if self._dtype == torch.float64 else torch.float32
        width = activations.channels + -activations.channels % self._multiple
        logits = [part.to(wide).mean((2, 3)).view(len(part), -1, width) for part in activations.parts]
        return torch.cat(logits, 1)[:, :, : activations.channels].permute(1, 2, 0)

    def _convolve(self, part: Tensor, window: Window, tensors: StageTensors, run: slice, *, shared: bool) -> Tensor:
        layer, weight = window.layer, tensors.weight[run]
        weight = _filled(weight, 1, self._multiple)
        if layer.depthwise:
            assert not shared, "no network begins with a depthwise convolution"
        elif not shared:
            weight = _filled(weight, 2, self._multiple)
        bias = None
        if tensors.norm is None:
            bias = _filled(tensors.bias[run], 1, self._multiple).reshape(-1).to(self._dtype)
        part, stride = thinned(part, layer)
        return F.conv2d(
            part,
            weight.flatten(0, 1).to(self._dtype, memory_format=torch.channels_last),
            bias,
            stride=stride,
            padding=layer.padding,
            groups=1 if shared else len(weight) * (weight.shape[1] if layer.depthwise else 1),
        )


@dataclass(frozen=True, kw_only=True)
class Folded:
    """One model's stage: its weight (C, K, k, k) with batch norm in it, and its addend (C)."""

    weight: Tensor
    shift: Tensor
    signal: SignalTensors | None
    added: SignalTensors | None


def thinned(images: Tensor, layer: ConvLayer) -> tuple[Tensor, int]:
    """The images (B, C, side, side) and the stride with which a layer's convolution reads them.

    Of a strided 1×1 convolution the pixels that it reads, with stride 1: the same sums; oneDNN's backward pass of such
    a convolution can abort the process (torch 2.15).
    """
    stride = layer.stride
    if layer.kernel == 1 and stride > 1 and layer.padding == 0:
        return images[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
    return images, stride


def folded(stage: StageTensors) -> Folded:
    """A stage of one model, made once for many batches."""
    scale, shift = stage.scale_and_shift()
    weight = stage.weight if scale is None else stage.weight * scale[:, :, None, None, None]
    weight = weight[0].contiguous(memory_format=torch.channels_last)
    return Folded(weight=weight, shift=shift[0], signal=stage.signal, added=stage.added)


def convolve(images: Tensor, window: Window, stage: Folded, residual: Tensor | None) -> Tensor:
    """One stage of one model on images (B, channels, side, side)."""
    layer = window.layer
    groups = layer.inputs if layer.depthwise else 1
    output = F.conv2d(images, stage.weight, stage.shift, stride=layer.stride, padding=layer.padding, groups=groups)
    if residual is not None:
        output.add_(residual)
    return activate(output, layer)


def in_turn(network: Any, stages: Sequence[StageTensors | NormTensors]) -> Callable[[Tensor], Tensor]:
    """Computes logits (M, classes, B) of images (B, channels, side, side), channels-last, one model after another.

    Their kernels are folded once for all images.
    """
    first = stages[0]
    count = len(first.weight if isinstance(first, StageTensors) else first.gamma)
    models = [[_readied(stage.of(model)) for stage in stages] for model in range(count)]

    def quantize(images: Tensor, signal: SignalTensors) -> Tensor:
        return side_by_side(images, signal, images.shape[1])

    def logits(images: Tensor) -> Tensor:
        walks = (network.walk(images, one, convolve, pool_planes, rescale, quantize) for one in models)
        return torch.stack([one.t() for one in walks])

    return logits


def _readied(stage: StageTensors | NormTensors) -> Folded | tuple[Tensor, Tensor]:
    """What one model's stage computes with: what is folded, or a factor and an addend (C)."""
    if isinstance(stage, StageTensors):
        return folded(stage)
    scale, shift = stage.scale_and_shift()
    return scale[0], shift[0]


def rescale(images: Tensor, layer: NormLayer, stage: tuple[Tensor, Tensor]) -> Tensor:
    """Batch norm and ReLU of one model's images (B, C, side, side) by its running statistics."""
    scale, shift = (one[:, None, None] for one in stage)
    return activate((images * scale).add_(shift), layer)


def _activated(output: Tensor, layer: Layer, residual: Tensor | None) -> Tensor:
    if residual is not None:
        output = output + residual
    return bounded(output, layer.ceiling) if layer.relu else output


def _filled(tensor: Tensor, dimension: int, multiple: int) -> Tensor:
    """Zeros at the end of a dimension up to a multiple."""
    lacking = -tensor.shape[dimension] % multiple
    if not lacking:
        return tensor
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1 - dimension) + (0, lacking))
