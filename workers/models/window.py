"""How a convolution's kernel meets its images: the gather that makes a convolution a matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer


class Window:
    """The taps of one convolution's kernel that ever meet a pixel, and the pixels that each of them meets.

    A 3×3 kernel with stride 2 and padding 1 meets a 2×2 image with 4 of its taps, and a 1×1 image with the
    central one alone; the weights of the others have no effect and no gradient. Images are
    (M, channels, side, side, B) with the batch innermost, so that a gather copies runs of whole batches.
    """

    def __init__(self, layer: ConvLayer, side: int) -> None:
        self._layer = layer
        self._side = side
        reached = [self._reach(tap) for tap in range(layer.kernel)]
        met = [tap for tap, (low, high) in enumerate(reached) if low < high]
        self._taps = slice(met[0], met[-1] + 1)
        self._reached = reached[self._taps]
        self._whole = len(met) == layer.kernel
        self._pointwise = len(met) == 1 and layer.side == side
        self._places = list(self._find_places())
        front = layer.padding - self._taps.start
        self._padded = (layer.side - 1) * layer.stride + len(met)
        self._kept = slice(0, self._padded - front)
        self._margin = slice(front, min(front + side, self._padded))

    @property
    def layer(self) -> ConvLayer:
        """The convolution."""
        return self._layer

    def kernel(self, weight: Tensor) -> Tensor:
        """The matrices (M, outputs, reads·taps²) in weights (M, outputs, reads, kernel, kernel)."""
        return (weight if self._whole else weight[..., self._taps, self._taps]).flatten(2)

    def spread(self, kernel: Tensor) -> Tensor:
        """The adjoint of `kernel`: weights with zeros where no tap meets a pixel."""
        layer, taps = self._layer, len(self._reached)
        small = kernel.view(*kernel.shape[:2], layer.reads, taps, taps)
        if self._whole:
            return small
        weight = small.new_zeros(*small.shape[:3], layer.kernel, layer.kernel)
        weight[..., self._taps, self._taps] = small
        return weight

    def gather(self, images: Tensor) -> Tensor:
        """The pixels under each tap (M, channels·taps², side'²·B)."""
        if self._pointwise:
            return images.flatten(2)
        models, channels, *_, batch = images.shape
        if not images.requires_grad:
            return self._copied(images)
        padded = images.new_zeros(models, channels, self._padded, self._padded, batch)
        padded[:, :, self._margin, self._margin] = images[:, :, self._kept, self._kept]
        taps, stride = len(self._reached), self._layer.stride
        columns = padded.unfold(2, taps, stride).unfold(3, taps, stride).permute(0, 1, 5, 6, 2, 3, 4)
        return columns.reshape(models, channels * taps * taps, -1)

    def _copied(self, images: Tensor) -> Tensor:
        """`gather` without a graph, in one pass: each tap's pixels, and zeros where it meets padding."""
        models, channels, *_, batch = images.shape
        taps, side = len(self._reached), self._layer.side
        columns = images.new_empty(models, channels, taps, taps, side, side, batch)
        for row, column, (down, across), (y, x) in self._places:
            tap = columns[:, :, row, column]
            tap[:, :, down, across] = images[:, :, y, x]
            for line, kept in ((2, down), (3, across)):
                tap.narrow(line, 0, kept.start).zero_()
                tap.narrow(line, kept.stop, side - kept.stop).zero_()
        return columns.view(models, channels * taps * taps, -1)

    def scatter(self, columns: Tensor) -> Tensor:
        """The adjoint of `gather`: each pixel's sum over the taps that read it."""
        taps, side = len(self._reached), self._layer.side
        models, channels, batch = len(columns), self._layer.inputs, columns.shape[2] // side**2
        if self._pointwise:
            return columns.view(models, channels, side, side, batch)
        columns = columns.view(models, channels, taps, taps, side, side, batch)
        images = columns.new_zeros(models, channels, self._side, self._side, batch)
        for row, column, (down, across), (y, x) in self._places:
            images[:, :, y, x] += columns[:, :, row, column, down, across]
        return images

    def product(self, kernel: Tensor, columns: Tensor) -> Tensor:
        """The convolution (M, outputs, pixels) of gathered pixels, of which one (1, …) may serve all models."""
        if not self._layer.depthwise:
            return torch.bmm(kernel, columns.expand(len(kernel), -1, -1))
        return torch.matmul(kernel[:, :, None], self._apart(columns)).squeeze(2)

    def columns_gradient(self, kernel: Tensor, rows: Tensor) -> Tensor:
        """The adjoint of `product` in its columns, of rows (M, outputs, pixels)."""
        if not self._layer.depthwise:
            return torch.bmm(kernel.mT, rows)
        return (kernel[:, :, :, None] * rows[:, :, None]).flatten(1, 2)

    def kernel_gradient(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The adjoint of `product` in its kernel, of rows (M, outputs, pixels)."""
        if not self._layer.depthwise:
            return torch.bmm(rows, columns.expand(len(rows), -1, -1).mT)
        return torch.matmul(self._apart(columns), rows[:, :, :, None]).squeeze(3)

    def _apart(self, columns: Tensor) -> Tensor:
        """Gathered pixels channel by channel (M, channels, taps², pixels)."""
        return columns.view(len(columns), self._layer.inputs, -1, columns.shape[-1])

    def outputs(self, rows: Tensor) -> Tensor:
        """The output images (M, outputs, side', side', B) in rows (M, outputs, side'²·B)."""
        return rows.view(*rows.shape[:2], self._layer.side, self._layer.side, -1)

    def _find_places(self) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """For each tap: its row and column, the outputs that it serves, and the inputs that they read."""
        for row, (top, bottom) in enumerate(self._reached):
            y = self._inputs(row, top, bottom)
            for column, (left, right) in enumerate(self._reached):
                x = self._inputs(column, left, right)
                yield row, column, (slice(top, bottom), slice(left, right)), (y, x)

    def _reach(self, tap: int) -> tuple[int, int]:
        """The outputs [low, high) whose input at `tap` is a pixel and not padding."""
        layer = self._layer
        met = [o for o in range(layer.side) if 0 <= o * layer.stride + tap - layer.padding < self._side]
        return (met[0], met[-1] + 1) if met else (0, 0)

    def _inputs(self, tap: int, low: int, high: int) -> slice:
        layer = self._layer
        first = low * layer.stride + tap + self._taps.start - layer.padding
        return slice(first, first + (high - low - 1) * layer.stride + 1, layer.stride)
