"""Convolution, batch norm, residual and ReLU of M models at once, as gather and batched matrix product.

Activations are (M, channels, height, width, B) with the batch innermost: a 1×1 convolution is one matrix
product (outputs × inputs)·(inputs × pixels) a model without any copy, and a channel's pixels are one run of
memory. The convolution's bias is left out of the training pass: batch norm subtracts it again, and its
gradient is zero. It enters the running mean, and so the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qsweep.sweeps.layers import Layer, NormLayer
from qsweep.workers.models.window import Window
from qsweep.workers.quantizers.activations import SignalTensors

EPSILON = 1e-5
"""Added to the variance, as `torch.nn.BatchNorm2d` does."""

CACHE = 1 << 20
"""Bytes of one activation that a CPU normalizes in one go: passes after the first then hit its L2 cache."""


@dataclass(frozen=True, kw_only=True)
class NormTensors:
    """Batch norm of one stage of M models, all (M, C)."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor

    def of(self, model: int) -> NormTensors:
        """Those of one of the models."""
        one = slice(model, model + 1)
        return NormTensors(gamma=self.gamma[one], beta=self.beta[one], mean=self.mean[one], variance=self.variance[one])

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the running statistics make of x: scale·x + shift, each (M, C)."""
        scale = self.gamma * (self.variance + EPSILON).rsqrt()
        return scale, self.beta - self.mean * scale


@dataclass(frozen=True, kw_only=True)
class StageTensors:
    """What one stage of M models computes with: weight (M, C, K, k, k) with K = 1 where it is depthwise,
    bias (M, C), and batch norm if it has one."""

    weight: Tensor
    bias: Tensor
    norm: NormTensors | None
    signal: SignalTensors | None = None
    """What its input is quantized with, if it is."""
    added: SignalTensors | None = None
    """What the residual that it adds is quantized with, if it is."""

    def of(self, model: int) -> StageTensors:
        """Those of one of the models."""
        one, norm = slice(model, model + 1), self.norm
        return StageTensors(
            weight=self.weight[one],
            bias=self.bias[one],
            norm=None if norm is None else norm.of(model),
            signal=None if self.signal is None else self.signal.of(one),
            added=None if self.added is None else self.added.of(one),
        )

    def scale_and_shift(self) -> tuple[Tensor | None, Tensor]:
        """What the running statistics make of a convolution's output y: scale·y + shift, each (M, C)."""
        if self.norm is None:
            return None, self.bias
        scale = self.norm.gamma * (self.norm.variance + EPSILON).rsqrt()
        return scale, self.norm.beta + (self.bias - self.norm.mean) * scale


Moments: TypeAlias = tuple[Tensor, Tensor]
"""Mean and biased variance of a batch, each (M, C)."""


def train_stage(
    images: Tensor, window: Window, tensors: StageTensors, residual: Tensor | None
) -> tuple[Tensor, Moments | None]:
    """One stage with the batch's own statistics; also returns these, if it has batch norm."""
    if tensors.norm is None:
        return evaluate_stage(images, window, tensors, residual), None
    outputs: tuple[Tensor, Tensor, Tensor] = _Stage.apply(
        images, tensors.weight, tensors.norm.gamma, tensors.norm.beta, residual, window
    )
    return outputs[0], outputs[1:]


def evaluate_stage(images: Tensor, window: Window, tensors: StageTensors, residual: Tensor | None) -> Tensor:
    """One stage with the running statistics; differentiable."""
    scale, shift = tensors.scale_and_shift()
    product = window.product(window.kernel(tensors.weight), window.gather(images))
    if scale is not None:
        product = product * scale[:, :, None]
    output = window.outputs(product.add_(shift[:, :, None]))
    if residual is not None:
        output.add_(residual)
    return activate(output, window.layer)


def train_norm(images: Tensor, layer: NormLayer, norm: NormTensors) -> tuple[Tensor, Moments]:
    """Batch norm and ReLU of images (M, C, side, side, B) with the batch's own statistics; also returns these."""
    found: tuple[Tensor, Tensor, Tensor] = _Norm.apply(images, norm.gamma, norm.beta, layer)
    return found[0], found[1:]


def evaluate_norm(images: Tensor, layer: NormLayer, norm: NormTensors) -> Tensor:
    """The same with the running statistics; differentiable."""
    scale, shift = (one[:, :, None, None, None] for one in norm.scale_and_shift())
    return activate((images * scale).add_(shift), layer)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """What a stage computes in evaluation mode where nothing is trained: a kernel (M, C, K·taps²) with batch
    norm in it, and an addend (M, C, 1)."""

    kernel: Tensor
    shift: Tensor
    signal: SignalTensors | None
    added: SignalTensors | None


@torch.no_grad()
def affine(window: Window, tensors: StageTensors) -> Affine:
    """A stage without a graph, made once for many batches."""
    scale, shift = tensors.scale_and_shift()
    kernel = window.kernel(tensors.weight)
    return Affine(
        kernel=kernel if scale is None else kernel * scale[:, :, None],
        shift=shift[:, :, None],
        signal=tensors.signal,
        added=tensors.added,
    )


@torch.no_grad()
def infer(columns: Tensor, window: Window, stage: Affine, residual: Tensor | None) -> Tensor:
    """The output images of a stage on gathered pixels (M or 1, K·taps², pixels), which it leaves as they are."""
    kernel = stage.kernel
    if window.layer.depthwise:
        product = window.product(kernel, columns)
    elif len(columns) == 1:
        product = torch.mm(kernel.flatten(0, 1), columns[0]).view(*kernel.shape[:2], -1)
    else:
        product = torch.bmm(kernel, columns)
    output = window.outputs(product.add_(stage.shift))
    if residual is not None:
        output.add_(residual)
    return activate(output, window.layer)


def activate(images: Tensor, layer: Layer) -> Tensor:
    """ReLU, up to its ceiling, in place; the images themselves where the layer has none."""
    if not layer.relu:
        return images
    return images.relu_() if layer.ceiling is None else torch.nn.functional.hardtanh_(images, 0.0, layer.ceiling)


def bounded(images: Tensor, ceiling: float | None) -> Tensor:
    """ReLU, up to the ceiling if there is one."""
    return images.relu() if ceiling is None else torch.nn.functional.hardtanh(images, 0.0, ceiling)


def gradient_below(gradient: Tensor, activated: Tensor, ceiling: float | None) -> Tensor:
    """The gradient of what `activated` was before ReLU: 0 where it was cut off."""
    below: Tensor
    if ceiling is None:
        below = torch.ops.aten.threshold_backward(gradient, activated, 0)
    else:
        below = torch.ops.aten.hardtanh_backward(gradient, activated, 0.0, ceiling)
    return below


class _Stage(torch.autograd.Function):
    """z = max(γ·(y − mean)·r + β + residual, 0) with y = W·x and r = 1/√(var + ε), over each channel's own pixels.

    The residual, and the maximum, only where the layer has them; the maximum up to the layer's ceiling. Returns
    z (M, C, side, side, B), and the mean and biased variance of y (M, C). The backward pass of batch norm is
    PyTorch's; its forward pass is three times slower than these few vectorized ones.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None, window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        columns, kernel = window.gather(images), window.kernel(weight)
        centred = window.product(kernel, columns)
        scale, shift = gamma.reshape(-1, 1), beta.reshape(-1, 1)
        rows = centred.flatten(0, 1)
        output = torch.empty_like(rows)
        added = None if residual is None else residual.reshape(rows.shape)
        moments = []
        for some in _blocks(rows):
            moments.append(_normalize(rows[some], scale[some], shift[some], output[some]))
            if added is not None:
                output[some].add_(added[some])
            activate(output[some], window.layer)
        mean, variance, inverse = (_joined(parts) for parts in zip(*moments, strict=True))
        output = window.outputs(output.view_as(centred))
        ctx.window = window
        ctx.save_for_backward(columns, kernel, scale, centred, inverse, output if window.layer.relu else None)
        mean, variance = mean.view_as(gamma), variance.view_as(gamma)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns, kernel, gamma, centred, inverse, output = ctx.saved_tensors
        window, (models, channels, pixels) = ctx.window, centred.shape
        outer = gradients[0] if output is None else gradient_below(gradients[0], output, window.layer.ceiling)
        inner, gamma_gradient, beta_gradient = _norm_backward(
            outer.reshape(1, -1, pixels), centred.view(1, -1, pixels), gamma.view(-1), inverse
        )
        inner = inner.view_as(centred)
        below = window.scatter(window.columns_gradient(kernel, inner)) if ctx.needs_input_grad[0] else None
        return (
            below,
            window.spread(window.kernel_gradient(inner, columns)),
            gamma_gradient.view(models, channels),
            beta_gradient.view(models, channels),
            outer if ctx.needs_input_grad[4] else None,
            None,
        )


class _Norm(torch.autograd.Function):
    """z = max(γ·(x − mean)·r + β, 0) with r = 1/√(var + ε), over each channel's own pixels, of x (M, C, side, side, B).

    The maximum only where the layer has it. Returns z, and the mean and biased variance of x (M, C).
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, gamma: Tensor, beta: Tensor, layer: NormLayer
    ) -> tuple[Tensor, Tensor, Tensor]:
        centred = images.flatten(0, 1).flatten(1).clone()
        scale, shift = gamma.reshape(-1, 1), beta.reshape(-1, 1)
        output = torch.empty_like(centred)
        moments = []
        for some in _blocks(centred):
            moments.append(_normalize(centred[some], scale[some], shift[some], output[some]))
            activate(output[some], layer)
        mean, variance, inverse = (_joined(parts) for parts in zip(*moments, strict=True))
        output = output.view_as(images)
        ctx.layer = layer
        ctx.save_for_backward(scale, centred, inverse, output if layer.relu else None)
        mean, variance = mean.view_as(gamma), variance.view_as(gamma)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gamma, centred, inverse, output = ctx.saved_tensors
        outer = gradients[0] if output is None else gradient_below(gradients[0], output, ctx.layer.ceiling)
        inner, gamma_gradient, beta_gradient = _norm_backward(
            outer.reshape(1, *centred.shape), centred[None], gamma.view(-1), inverse
        )
        models, channels = outer.shape[:2]
        return (
            inner.view_as(outer),
            gamma_gradient.view(models, channels),
            beta_gradient.view(models, channels),
            None,
        )


def _norm_backward(outer: Tensor, centred: Tensor, gamma: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of batch norm's input, γ and β, of `outer` and the centred input (1, R, N), γ and 1/√(var + ε)."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        outer,
        centred,
        gamma,
        None,
        None,
        torch.zeros_like(inverse),
        inverse,
        True,
        EPSILON,
        (True, True, True),
    )
    return found


def _normalize(rows: Tensor, gamma: Tensor, beta: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre `rows` (R, N) in place and write them normalized; mean, variance and 1/√(var + ε) (R)."""
    mean = rows.mean(1, keepdim=True)
    rows.sub_(mean)
    variance = torch.linalg.vector_norm(rows, dim=1, keepdim=True).square_().div_(rows.shape[1])
    inverse = (variance + EPSILON).rsqrt_()
    torch.mul(rows, gamma * inverse, out=output).add_(beta)
    return mean, variance, inverse


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Slices of `rows` (R, N) that fit the cache on a CPU; everything at once elsewhere."""
    count, width = rows.shape
    height = count if rows.is_cuda else max(1, CACHE // (width * rows.element_size()))
    for start in range(0, count, height):
        yield slice(start, min(count, start + height))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).view(-1)
