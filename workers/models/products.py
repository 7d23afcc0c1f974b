"""How a convolution of one model over a block of images becomes matrix products, and back.

Images are channels-last, (b, side, side, channels). Most ways of computing turn a block into P products: operands
(P, n, K) times matrices (P, K, outputs) are results (P, n, outputs), with n rows to `rows` an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer

WORTH_TRANSFORMING = 32
"""Channels from which Winograd's transforms cost less than the products that they save."""
Terms = list[tuple[int, float]]


class Way(Protocol):
    """How a convolution meets a block. `margin` is the padding before and after each line of the images that `load`
    takes, `rows` the outputs' pixels in an image."""

    margin: tuple[int, int]
    rows: int

    def matrices(self, weight: Tensor) -> Tensor:
        """What a weight (outputs, reads, k, k) is multiplied as."""

    def weight(self, matrices: Tensor) -> Tensor:
        """The adjoint of `matrices`."""

    def load(self, images: Tensor) -> Tensor:
        """Operands of padded images."""

    def multiply(self, operands: Tensor, matrices: Tensor, out: Tensor) -> None:
        """Write the convolution, images (b, side', side', outputs), to `out`."""

    def spread(self, slopes: Tensor) -> Tensor:
        """The outputs' gradient as the two adjoints take it."""

    def add_slopes(self, operands: Tensor, spread: Tensor, total: Tensor) -> None:
        """The adjoint of `multiply` in the matrices, added to `total`."""

    def collect_slopes(self, spread: Tensor, matrices: Tensor, out: Tensor) -> None:
        """The adjoint of `multiply` in the images: write it to `out`, images without padding."""


class Products(Way, Protocol):
    """A way by P matrix products: `matrices` are (P, K, outputs), operands (P, n, K)."""

    def store(self, results: Tensor, out: Tensor) -> None:
        """Write results as images (b, side', side', outputs) to `out`."""

    def spread(self, slopes: Tensor) -> Tensor:
        """The adjoint of `store`: (P, n, outputs) of images (b, side', side', outputs)."""

    def collect(self, operands: Tensor, out: Tensor) -> None:
        """The adjoint of `load`: write each pixel's sum to `out`, images without padding."""

    def multiply(self, operands: Tensor, matrices: Tensor, out: Tensor) -> None:
        if len(operands) == 1:
            torch.mm(operands[0], matrices[0], out=_rows(out))
        else:
            self.store(torch.bmm(operands, matrices), out)

    def add_slopes(self, operands: Tensor, spread: Tensor, total: Tensor) -> None:
        if len(operands) == 1:
            total[0].addmm_(operands[0].t(), spread[0])
        else:
            total.baddbmm_(operands.mT, spread)

    def collect_slopes(self, spread: Tensor, matrices: Tensor, out: Tensor) -> None:
        self.collect(torch.bmm(spread, matrices.mT), out)


def products_of(layer: ConvLayer, side: int, dtype: torch.dtype) -> Way:
    """The way with the fewest operations for a layer on images with sides of `side` pixels."""
    if layer.depthwise:
        return Depthwise(layer, side)
    if (layer.kernel, layer.stride, layer.padding) == (1, 1, 0):
        return Pointwise(side)
    transform = TRANSFORMS.get((layer.kernel, layer.stride, layer.padding))
    wide = min(layer.inputs, layer.outputs) >= WORTH_TRANSFORMING
    if transform is not None and wide and side % (2 * layer.stride) == 0 and dtype.itemsize >= 4:
        return Winograd(transform, layer, side)
    return Columns(layer, side)


class Pointwise(Products):
    """A 1×1 convolution: the images themselves are the one operand."""

    margin = (0, 0)

    def __init__(self, side: int) -> None:
        self.rows = side**2

    def matrices(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).t().unsqueeze(0)

    def weight(self, matrices: Tensor) -> Tensor:
        return matrices[0].t()[:, :, None, None]

    def load(self, images: Tensor) -> Tensor:
        return images.view(1, -1, images.shape[-1])

    def store(self, results: Tensor, out: Tensor) -> None:
        out.copy_(results.view_as(out))

    def spread(self, slopes: Tensor) -> Tensor:
        return slopes.view(1, -1, slopes.shape[-1])

    def collect(self, operands: Tensor, out: Tensor) -> None:
        out.copy_(operands.view_as(out))

    def collect_slopes(self, spread: Tensor, matrices: Tensor, out: Tensor) -> None:
        torch.mm(spread[0], matrices[0].t(), out=_rows(out))


class Columns(Products):
    """Any convolution: one operand, a row of which holds the pixels under all taps."""

    def __init__(self, layer: ConvLayer, side: int) -> None:
        self._layer, self._side = layer, side
        self.rows = layer.side**2
        self.margin = _margin(layer, side)
        span = (layer.side - 1) * layer.stride + 1
        self._places = [slice(tap, tap + span, layer.stride) for tap in range(layer.kernel)]

    def matrices(self, weight: Tensor) -> Tensor:
        return weight.permute(2, 3, 1, 0).reshape(1, -1, len(weight))

    def weight(self, matrices: Tensor) -> Tensor:
        layer = self._layer
        return matrices.view(layer.kernel, layer.kernel, layer.inputs, layer.outputs).permute(3, 2, 0, 1)

    def load(self, images: Tensor) -> Tensor:
        layer = self._layer
        windows = images.unfold(1, layer.kernel, layer.stride).unfold(2, layer.kernel, layer.stride)
        windows = windows[:, : layer.side, : layer.side].permute(0, 1, 2, 4, 5, 3)
        return windows.reshape(1, -1, layer.kernel**2 * layer.inputs)

    def store(self, results: Tensor, out: Tensor) -> None:
        out.copy_(results.view_as(out))

    def spread(self, slopes: Tensor) -> Tensor:
        return slopes.view(1, -1, slopes.shape[-1])

    def collect(self, operands: Tensor, out: Tensor) -> None:
        layer = self._layer
        taps = operands.view(len(out), layer.side, layer.side, layer.kernel, layer.kernel, layer.inputs)
        padded, inner = room(out, self.margin)
        for row, down in enumerate(self._places):
            for column, across in enumerate(self._places):
                padded[:, down, across] += taps[:, :, :, row, column]
        out.copy_(inner)


class Depthwise:
    """A convolution of each channel alone: the library's own, as there is no product that channels could share.

    A block's pixels are still in the cache when it reads them.
    """

    def __init__(self, layer: ConvLayer, side: int) -> None:
        self._stride, self._kernel = layer.stride, layer.kernel
        self.rows = layer.side**2
        self.margin = _margin(layer, side)
        self._needed = (layer.side - 1) * layer.stride + layer.kernel

    def matrices(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def weight(self, matrices: Tensor) -> Tensor:
        return matrices[0]

    def load(self, images: Tensor) -> Tensor:
        return images[:, : self._needed, : self._needed].unsqueeze(0)

    def multiply(self, operands: Tensor, matrices: Tensor, out: Tensor) -> None:
        planes, kernel = _planes(operands[0]), matrices[0]
        found = torch.nn.functional.conv2d(planes, kernel, stride=self._stride, groups=len(kernel))
        out.copy_(found.permute(0, 2, 3, 1))

    def spread(self, slopes: Tensor) -> Tensor:
        return slopes.unsqueeze(0)

    def add_slopes(self, operands: Tensor, spread: Tensor, total: Tensor) -> None:
        total[0] += self._backward(operands, spread, total, inputs=False)

    def collect_slopes(self, spread: Tensor, matrices: Tensor, out: Tensor) -> None:
        side = out.shape[1]
        inner = slice(self.margin[0], self.margin[0] + side)
        padded = out.new_empty(len(out), self._needed, self._needed, out.shape[-1])
        found = self._backward(padded.unsqueeze(0), spread, matrices, inputs=True).permute(0, 2, 3, 1)[:, inner, inner]
        if found.shape == out.shape:
            out.copy_(found)
        else:  # the last lines are met by no tap
            out.zero_()
            out[:, : found.shape[1], : found.shape[2]] = found

    def _backward(self, operands: Tensor, spread: Tensor, matrices: Tensor, *, inputs: bool) -> Tensor:
        """The library's gradient in its inputs, which only their shape decides, or in its kernel."""
        planes, slopes, kernel = _planes(operands[0]), _planes(spread[0]), matrices[0]
        strides, groups = [self._stride] * 2, len(kernel)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            slopes, planes, kernel, None, strides, [0, 0], [1, 1], False, [0, 0], groups, [inputs, not inputs, False]
        )
        return found[0] if inputs else found[1]


class Transform:
    """Winograd's minimal filtering along a line (Lavin & Gray 2016, arXiv 1509.09308): y = A((G·g) ⊙ (B·d)).

    Two outputs y from a tile d of pixels and k taps g, by p products instead of 2k. B is `data` (p, tile), G
    `kernel` (p, k), A `result` (2, p). Entries are 0, ±1 and ½, so that hardly a bit is lost.
    """

    def __init__(self, data: list[list[float]], kernel: list[list[float]], result: list[list[float]]) -> None:
        self.data, self.kernel, self.result = (torch.tensor(one, dtype=torch.float64) for one in (data, kernel, result))


TRANSFORMS = {
    # Kernel, stride, padding. Stride 1 is F(2, 3): four products for six.
    (3, 1, 1): Transform(
        data=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
        kernel=[[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        result=[[1, 1, 1, 0], [0, 1, -1, 1]],
    ),
    # Stride 2: taps 0 and 2 meet every other pixel, which is F(2, 2), and tap 1 the pixels between: five for six.
    (3, 2, 1): Transform(
        data=[[1, 0, -1, 0, 0], [0, 0, 1, 0, 0], [0, 0, -1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]],
        kernel=[[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]],
        result=[[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]],
    ),
}


class Winograd(Products):
    """A 3×3 convolution over tiles of 2×2 outputs, transformed along both lines."""

    def __init__(self, transform: Transform, layer: ConvLayer, side: int) -> None:
        self._kernel = transform.kernel
        self._channels = layer.inputs
        self._count, tile = transform.data.shape
        self._tiles = layer.side // 2
        self.rows = self._tiles**2
        span = (self._tiles - 1) * 2 * layer.stride + 1
        self.margin = (layer.padding, span - 1 + tile - layer.padding - side)
        self._places = [slice(one, one + span, 2 * layer.stride) for one in range(tile)]
        self._data, self._data_adjoint = _terms(transform.data), _terms(transform.data.t())
        self._result, self._result_adjoint = _terms(transform.result), _terms(transform.result.t())

    def matrices(self, weight: Tensor) -> Tensor:
        lines = self._kernel.to(weight)
        return torch.einsum("pa,qb,oiab->pqio", lines, lines, weight).flatten(0, 1).contiguous()

    def weight(self, matrices: Tensor) -> Tensor:
        lines = self._kernel.to(matrices)
        pairs = matrices.view(self._count, self._count, *matrices.shape[1:])
        return torch.einsum("pa,qb,pqio->oiab", lines, lines, pairs)

    def load(self, images: Tensor) -> Tensor:
        operands = self._products(images, len(images), self._channels)
        lines = [images[:, place] for place in self._places]
        for row, terms in zip(operands, self._data, strict=True):
            line = _combined(terms, lines)
            pixels = [line[:, :, place] for place in self._places]
            for operand, others in zip(row, self._data, strict=True):
                _combined(others, pixels, out=operand)
        return operands.view(self._count**2, -1, self._channels)

    def store(self, results: Tensor, out: Tensor) -> None:
        lines = results.view(self._count, self._count, len(out), self._tiles, self._tiles, -1).unbind(0)
        for row, terms in enumerate(self._result):
            pixels = _combined(terms, lines).unbind(0)
            for column, others in enumerate(self._result):
                _combined(others, pixels, out=out[:, row::2, column::2])

    def spread(self, slopes: Tensor) -> Tensor:
        spread = self._products(slopes, len(slopes), slopes.shape[-1])
        lines = [slopes[:, 0::2], slopes[:, 1::2]]
        for row, terms in zip(spread, self._result_adjoint, strict=True):
            line = _combined(terms, lines)
            pixels = [line[:, :, 0::2], line[:, :, 1::2]]
            for part, others in zip(row, self._result_adjoint, strict=True):
                _combined(others, pixels, out=part)
        return spread.view(self._count**2, -1, slopes.shape[-1])

    def collect(self, operands: Tensor, out: Tensor) -> None:
        lines = operands.view(self._count, self._count, len(out), self._tiles, self._tiles, -1).unbind(0)
        padded, inner = room(out, self.margin)
        for down, terms in zip(self._places, self._data_adjoint, strict=True):
            pixels = _combined(terms, lines).unbind(0)
            for across, others in zip(self._places, self._data_adjoint, strict=True):
                padded[:, down, across] += _combined(others, pixels)
        out.copy_(inner)

    def _products(self, like: Tensor, images: int, channels: int) -> Tensor:
        return like.new_empty(self._count, self._count, images, self._tiles, self._tiles, channels)


def _margin(layer: ConvLayer, side: int) -> tuple[int, int]:
    """The padding that a layer's last output needs."""
    reach = (layer.side - 1) * layer.stride + layer.kernel
    return layer.padding, max(0, reach - layer.padding - side)


def _planes(images: Tensor) -> Tensor:
    """Images (b, side, side, channels) as (b, channels, side, side), without a copy."""
    return images.permute(0, 3, 1, 2)


def _rows(images: Tensor) -> Tensor:
    return images.view(-1, images.shape[-1])


def room(images: Tensor, margin: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Zeros for images and a margin before and after each of their lines, and the view of the images in them."""
    count, side, _, channels = images.shape
    line = sum(margin) + side
    padded = images.new_zeros(count, line, line, channels)
    inner = slice(margin[0], margin[0] + side)
    return padded, padded[:, inner, inner]


def _terms(matrix: Tensor) -> list[Terms]:
    """Place and value of each row's entries that are not zero, a positive one first."""
    rows = [[(place, value) for place, value in enumerate(row) if value] for row in matrix.tolist()]
    return [sorted(row, key=lambda term: -term[1]) for row in rows]


def _combined(terms: Terms, parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The sum of the parts that `terms` names, each times ±1; a lone part itself unless there is an `out`."""
    first = parts[terms[0][0]]
    if len(terms) == 1:
        return first if out is None else out.copy_(first)
    total = torch.empty_like(first, memory_format=torch.contiguous_format) if out is None else out
    for place, factor in terms[1:]:
        torch.add(first, parts[place], alpha=factor, out=total)
        first = total
    return total
