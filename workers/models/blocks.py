"""Convolutions of one model after another, over blocks of images that stay in a processor's cache.

Activations are channels-last, (M, B, side, side, channels). What goes from one convolution to the next is its
result before batch norm: the next one normalizes a block, multiplies it while it is in the cache, and takes the
moments of the product before they leave it. So a stage reads one activation and writes one, and nothing
but results before batch norm is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import Pool
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.products import Way, products_of, room
from qsweep.workers.models.stage import EPSILON, Moments, StageTensors, bounded
from qsweep.workers.models.window import Window

ROWS = 2048
"""Rows of the matrix products of one block where one product serves all pixels: high enough for a fast product."""
TRANSFORMED_ROWS = 384
"""The same where many products share the work."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The batch norm and ReLU that a result still awaits, with the batch's own moments: all (M, C). ReLU may have a
    ceiling."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    inverse: Tensor
    ceiling: float | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images (M or 1, B, side, side, C), and what they still await."""

    images: Tensor
    norm: Norm | None = None


class Blocked:
    """One model after another, block after block."""

    def enter(self, images: Tensor) -> Rows:
        return Rows(images=images.permute(0, 2, 3, 1).contiguous().unsqueeze(0))

    def pool(self, signal: Rows, pool: Pool) -> Rows:
        images = _settled(signal)
        small = pool_planes(images.flatten(0, 1).permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1).contiguous()
        return Rows(images=small.view(*images.shape[:2], *small.shape[1:]))

    def stage(
        self, signal: Rows, window: Window, tensors: StageTensors, residual: Rows | None
    ) -> tuple[Rows, Moments | None]:
        norm = signal.norm
        given = (None, None, None, None) if norm is None else (norm.gamma, norm.beta, norm.mean, norm.inverse)
        ceiling = None if norm is None else norm.ceiling
        images, moments = _Convolution.apply(signal.images, tensors.weight, *given, window, ceiling)
        if tensors.norm is None:
            return Rows(images=_finished(images + _aligned(tensors.bias), window, residual)), None
        mean, variance = moments.unbind(0)
        inverse = (variance + EPSILON).rsqrt()
        norm = Norm(
            gamma=tensors.norm.gamma, beta=tensors.norm.beta, mean=mean, inverse=inverse, ceiling=window.layer.ceiling
        )
        if residual is None and window.layer.relu:
            return Rows(images=images, norm=norm), (mean, variance)
        return Rows(images=_finished(_normalized(images, norm), window, residual)), (mean, variance)

    def leave(self, signal: Rows) -> Tensor:
        return _settled(signal).mean((2, 3)).mT


def _settled(signal: Rows) -> Tensor:
    """The images with nothing left to do."""
    if signal.norm is None:
        return signal.images
    return bounded(_normalized(signal.images, signal.norm), signal.norm.ceiling)


def _finished(images: Tensor, window: Window, residual: Rows | None) -> Tensor:
    if residual is not None:
        images = images + _settled(residual)
    return bounded(images, window.layer.ceiling) if window.layer.relu else images


def _normalized(images: Tensor, norm: Norm) -> Tensor:
    """γ·(x − mean)·r + β, with the gradient through the moments of x."""
    parts = [
        torch.nn.functional.batch_norm(
            one.permute(0, 3, 1, 2), None, None, gamma, beta, training=True, eps=EPSILON
        ).permute(0, 2, 3, 1)
        for one, gamma, beta in zip(images, norm.gamma, norm.beta, strict=True)
    ]
    return torch.stack(parts)


def _aligned(columns: Tensor) -> Tensor:
    """Columns (M, C) beside images (M, B, side, side, C)."""
    return columns[:, None, None, None]


class _Convolution(torch.autograd.Function):
    """y = W * max(γ·(x − mean)·r + β, 0) of x (M, B, s, s, K), and mean and biased variance of y (2, M, C).

    The maximum reaches up to the ceiling of ReLU, if it has one.

    Without γ, x is taken as it is. The gradient of x includes that through its moments. One x (1, …) may serve all
    models, and gets no gradient then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor | None,
        inverse: Tensor | None,
        window: Window,
        ceiling: float | None,
    ) -> tuple[Tensor, Tensor]:
        models, outputs = weight.shape[:2]
        side, products = window.layer.side, products_of(window.layer, images.shape[2], images.dtype)
        result = images.new_empty(models, images.shape[1], side, side, outputs)
        moments = images.new_empty(2, models, outputs)
        affine = None
        if gamma is not None and beta is not None:
            assert mean is not None
            assert inverse is not None
            scale = gamma * inverse
            affine = torch.stack([scale, beta - mean * scale])
        for model in range(models):
            work = _Model(images, affine, weight, products, model, ceiling)
            moments[:, model] = work.forward(result[model])
        ctx.products, ctx.ceiling = products, ceiling
        ctx.save_for_backward(images, weight, gamma, mean, inverse, affine)
        ctx.mark_non_differentiable(moments)
        return result, moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, gamma, mean, inverse, affine = ctx.saved_tensors
        slopes = gradients[0].contiguous()
        slope_weight = torch.empty_like(weight)
        below = torch.empty_like(images) if ctx.needs_input_grad[0] else None
        slope_gamma, slope_beta = (None if gamma is None else torch.empty_like(gamma) for _ in range(2))
        for model in range(len(weight)):
            work = _Model(images, affine, weight, ctx.products, model, ctx.ceiling)
            lower = None if below is None else below[model]
            slope_weight[model] = work.backward(slopes[model], lower)
            if slope_gamma is not None and slope_beta is not None and lower is not None:
                moments = (mean[model], inverse[model])
                slope_gamma[model], slope_beta[model] = work.normalize_backward(lower, gamma[model], *moments)
        return below, slope_weight, slope_gamma, slope_beta, None, None, None, None


class _Model:
    """One model's share: images (B, s, s, K), scale and shift of their batch norm, and the weight's matrices."""

    def __init__(
        self,
        images: Tensor,
        affine: Tensor | None,
        weight: Tensor,
        products: Way,
        model: int,
        ceiling: float | None,
    ) -> None:
        self._ceiling = ceiling
        self._images = images[model if len(images) > 1 else 0]
        self._affine = None if affine is None else affine[:, model]
        self._products = products
        self._matrices = products.matrices(weight[model])
        rows = ROWS if len(self._matrices) == 1 else TRANSFORMED_ROWS
        self._block = max(1, rows // products.rows)

    def forward(self, result: Tensor) -> Tensor:
        """Write y (B, side, side, C) to `result`; its mean and biased variance (2, C)."""
        counts, moments = [], []
        for block, operands, _ in self._operands():
            out = result[block]
            self._products.multiply(operands, self._matrices, out)
            counts.append(len(_rows(out)))
            moments.append(torch.stack(torch.ops.aten.batch_norm_update_stats(_planes(out), None, None, 0.0)))
        return _joined(counts, moments)

    def backward(self, slopes: Tensor, below: Tensor | None) -> Tensor:
        """The weight's gradient; that of the normalized images, behind the ReLU, goes to `below`."""
        total = torch.zeros_like(self._matrices, memory_format=torch.contiguous_format)
        for block, operands, inner in self._operands():
            spread = self._products.spread(slopes[block])
            self._products.add_slopes(operands, spread, total)
            if below is None:
                continue
            out = below[block]
            self._products.collect_slopes(spread, self._matrices, out)
            if self._affine is not None and self._ceiling is None:
                torch.ops.aten.threshold_backward.grad_input(out, inner, 0, grad_input=out)
            elif self._affine is not None:
                torch.ops.aten.hardtanh_backward.grad_input(out, inner, 0.0, self._ceiling, grad_input=out)
        return self._products.weight(total)

    def normalize_backward(self, below: Tensor, gamma: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the gradient of γ·(x − mean)·r + β in `below` into that of x; those of γ and β."""
        _, slope_gamma, slope_beta = torch.ops.aten.native_batch_norm_backward(
            _planes(below),
            _planes(self._images),
            gamma,
            None,
            None,
            mean,
            inverse,
            True,
            EPSILON,
            (False, True, True),
        )
        scale = gamma * inverse
        share = scale / (below.numel() // below.shape[-1])
        factor = -share * inverse * slope_gamma
        addend = -share * slope_beta - factor * mean
        for start in range(0, len(below), self._block):
            block = slice(start, start + self._block)
            out = below[block]
            torch.addcmul(torch.addcmul(addend, self._images[block], factor), out, scale, out=out)
        return slope_gamma, slope_beta

    def _operands(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each block of images: its place, the operands of its products, and its normalized pixels.

        Blocks share their memory: what one held is gone when the next one comes.
        """
        padded = None
        for start in range(0, len(self._images), self._block):
            block = slice(start, start + self._block)
            images = self._images[block]
            if padded is None or len(padded) != len(images):
                padded, inner = room(images, self._products.margin)
            if self._affine is None:
                inner.copy_(images)
            else:
                torch.addcmul(self._affine[1], images, self._affine[0], out=inner)
                inner.relu_() if self._ceiling is None else F.hardtanh_(inner, 0.0, self._ceiling)
            yield block, self._products.load(padded), inner


def _rows(images: Tensor) -> Tensor:
    return images.view(-1, images.shape[-1])


def _planes(images: Tensor) -> Tensor:
    """Rows (…, C) as the one image (1, C, rows, 1) that batch norm's kernels take, without a copy."""
    rows = _rows(images)
    return rows.view(1, len(rows), 1, -1).permute(0, 3, 1, 2)


def _joined(counts: list[int], moments: list[Tensor]) -> Tensor:
    """Mean and biased variance (2, C) of all rows from those of each block (Chan et al. 1983)."""
    means, variances = torch.stack(moments, 1)
    shares = means.new_tensor([count / sum(counts) for count in counts])[:, None]
    mean = (means * shares).sum(0)
    return torch.stack([mean, ((variances + (means - mean).square()) * shares).sum(0)])
