"""Convolutions of one model after another, over blocks of images that stay in a processor's cache.

Activations are channels-last, (M, B, side, side, channels). What goes from one convolution to the next is its
result before batch norm: the next one normalizes a block, multiplies it while it is in the cache, and takes the
moments of the product before they leave it. So a stage reads one activation and writes one, and nothing
but results before batch norm is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweeps.models import ConvLayer
from workers.models.products import Pointwise, Products, products_of, room
from workers.models.stage import EPSILON, StageTensors

ROWS = 2048
"""Rows of the matrix products of one block where one product serves all pixels: high enough for a fast product."""
TRANSFORMED_ROWS = 384
"""The same where many products share the work."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The batch norm that a result still awaits, with the batch's own moments: all (M, C)."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    inverse: Tensor


class BlockStages:
    """A chain of convolutions, each with batch norm and ReLU."""

    def __init__(self, layers: Sequence[ConvLayer], sides: Sequence[int], dtype: torch.dtype) -> None:
        self._products = [products_of(layer, side, dtype) for layer, side in zip(layers, sides, strict=True)]
        self._sides = [layer.side for layer in layers]

    def train(self, images: Tensor, stages: Sequence[StageTensors]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits (M, classes, B) of images (B, channels, side, side), and each stage's mean and variance (M, C)."""
        rows = images.permute(0, 2, 3, 1).contiguous().unsqueeze(0)
        norm: Norm | None = None
        means, variances = [], []
        for products, side, tensors in zip(self._products, self._sides, stages, strict=True):
            rows, moments = _convolved(rows, norm, tensors.weight, products, side)
            mean, variance = moments.unbind(0)
            inverse = (variance + EPSILON).rsqrt()
            norm = Norm(gamma=tensors.gamma, beta=tensors.beta, mean=mean, inverse=inverse)
            means.append(mean)
            variances.append(variance)
        assert norm is not None, "a model has a layer"
        return _activated(rows, norm).mean((2, 3)).mT, means, variances


def _convolved(rows: Tensor, norm: Norm | None, weight: Tensor, products: Products, side: int) -> tuple[Tensor, Tensor]:
    given = (None, None, None, None) if norm is None else (norm.gamma, norm.beta, norm.mean, norm.inverse)
    outputs: tuple[Tensor, Tensor] = _Convolution.apply(rows, weight, *given, products, side)
    return outputs


def _activated(rows: Tensor, norm: Norm) -> Tensor:
    """max(γ·(y − mean)·r + β, 0) of the last results (M, B, side, side, C), which are small."""
    models, channels = norm.gamma.shape
    planes = rows.movedim(-1, 1).reshape(1, models * channels, -1)
    planes = torch.nn.functional.batch_norm(
        planes, None, None, norm.gamma.reshape(-1), norm.beta.reshape(-1), training=True, eps=EPSILON
    )
    return planes.relu().view(models, channels, *rows.shape[1:-1]).movedim(1, -1)


class _Convolution(torch.autograd.Function):
    """y = W * max(γ·(x − mean)·r + β, 0) of x (M, B, s, s, K), and mean and biased variance of y (2, M, C).

    Without γ, x (1, B, s, s, K) is taken as it is and gets no gradient. The gradient of x includes that
    through its moments, which batch norm takes from it.
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
        products: Products,
        side: int,
    ) -> tuple[Tensor, Tensor]:
        models, outputs = weight.shape[:2]
        result = images.new_empty(models, images.shape[1], side, side, outputs)
        moments = images.new_empty(2, models, outputs)
        affine = None
        if gamma is not None and beta is not None:
            scale = gamma * inverse
            affine = torch.stack([scale, beta - mean * scale])
        for model in range(models):
            work = _Model(images, affine, weight, products, model)
            moments[:, model] = work.forward(result[model])
        ctx.products = products
        ctx.save_for_backward(images, weight, gamma, mean, inverse, affine)
        ctx.mark_non_differentiable(moments)
        return result, moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, gamma, mean, inverse, affine = ctx.saved_tensors
        slopes = gradients[0].contiguous()
        slope_weight = torch.empty_like(weight)
        below, slope_gamma, slope_beta = (None if affine is None else torch.empty_like(one) for one in (images, gamma, gamma))
        for model in range(len(weight)):
            work = _Model(images, affine, weight, ctx.products, model)
            if affine is None:
                slope_weight[model] = work.backward(slopes[model], None)
                continue
            norm = Norm(gamma=gamma[model], beta=gamma[model], mean=mean[model], inverse=inverse[model])
            slope_weight[model] = work.backward(slopes[model], below[model])
            slope_gamma[model], slope_beta[model] = work.normalize_backward(below[model], norm)
        return below, slope_weight, slope_gamma, slope_beta, None, None, None, None


class _Model:
    """One model's share: images (B, s, s, K), scale and shift of their batch norm, and the weight's matrices."""

    def __init__(self, images: Tensor, affine: Tensor | None, weight: Tensor, products: Products, model: int) -> None:
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
            if len(operands) == 1:
                torch.mm(operands[0], self._matrices[0], out=_rows(out))
            else:
                self._products.store(torch.bmm(operands, self._matrices), out)
            counts.append(len(_rows(out)))
            moments.append(torch.stack(torch.ops.aten.batch_norm_update_stats(_planes(out), None, None, 0.0)))
        return _joined(counts, moments)

    def backward(self, slopes: Tensor, below: Tensor | None) -> Tensor:
        """The weight's gradient; that of the normalized images, behind the ReLU, goes to `below`."""
        total = torch.zeros_like(self._matrices, memory_format=torch.contiguous_format)
        for block, operands, inner in self._operands():
            spread = self._products.spread(slopes[block])
            if len(operands) == 1:
                total[0].addmm_(operands[0].t(), spread[0])
            else:
                total.baddbmm_(operands.mT, spread)
            if below is None:
                continue
            out = below[block]
            if isinstance(self._products, Pointwise):
                torch.mm(spread[0], self._matrices[0].t(), out=_rows(out))
            else:
                self._products.collect(torch.bmm(spread, self._matrices.mT), out)
            torch.ops.aten.threshold_backward.grad_input(out, inner, 0, grad_input=out)
        return self._products.weight(total)

    def normalize_backward(self, below: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """Turn the gradient of γ·(x − mean)·r + β in `below` into that of x; those of γ and β."""
        _, gamma, beta = torch.ops.aten.native_batch_norm_backward(
            _planes(below),
            _planes(self._images),
            norm.gamma,
            None,
            None,
            norm.mean,
            norm.inverse,
            True,
            EPSILON,
            (False, True, True),
        )
        scale = norm.gamma * norm.inverse
        share = scale / (below.numel() // below.shape[-1])
        factor = -share * norm.inverse * gamma
        addend = -share * beta - factor * norm.mean
        for start in range(0, len(below), self._block):
            block = slice(start, start + self._block)
            out = below[block]
            torch.addcmul(torch.addcmul(addend, self._images[block], factor), out, scale, out=out)
        return gamma, beta

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
                torch.addcmul(self._affine[1], images, self._affine[0], out=inner).relu_()
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
