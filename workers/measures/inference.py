"""Inference by perturbed models over the same images, side by side as in training or in turn: hits and losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.convolved import convolve, folded_kernel
from qsweep.workers.models.graph import largest_activation
from qsweep.workers.models.network import stage_tensors
from qsweep.workers.models.stage import Affine, affine, infer
from qsweep.workers.models.window import Window

CPU_ACTIVATION = 1 << 20
"""Bytes of the largest activation of one pass on a CPU: its cache."""
CONVOLVED_ACTIVATION = 1 << 22
"""The same where one model at a time is judged: larger, as each product takes only one model's share."""
GPU_ACTIVATION = 1 << 29
LARGEST_BATCH = 1024
CPU_KEPT = 1 << 28
GPU_KEPT = 1 << 33
"""Bytes that the gathered pixels of the first layer may take, to be kept through a search."""
SMALLEST_BATCH = 16
GOOD_BATCH = 128
"""Images of a pass below which it does not pay to judge more models together."""


class Inference(Protocol):
    """Judges models (M, P, their weights as deployed) by the images that it was made with."""

    def together(self, copies: int) -> int:
        """How many models with `copies` copies each are best judged in one pass."""

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        """Images that each model gets right (M, int64)."""

    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of each model's cross-entropies (M, float64, nats) and its hits (M, int64).

        A model's bits depend on M, and neither on the other models nor on its place among them.
        """


class SideBySide:
    """All models at once, as gather and batched matrix product: for a GPU, and for small images."""

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._network = network
        self._images, self._labels = images, labels
        self._pixels = largest_activation(network.layout.layers) * images.element_size()
        self._size, self._kept = 0, list[Batch]()
        self._budget = GPU_ACTIVATION if images.is_cuda else CPU_ACTIVATION

    def together(self, copies: int) -> int:
        return max(1, self._budget // (self._pixels * GOOD_BATCH * copies))

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        chunk = max(1, 4 * self._budget // (self._pixels * SMALLEST_BATCH))
        starts = range(0, len(rows), chunk)
        return torch.cat([self._hits(rows[one : one + chunk], statistics[one : one + chunk]) for one in starts])

    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        network = self._network
        ready = self._ready(rows, statistics)
        losses = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        hits = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for batch in self._batches(len(rows)):
            logits = network.walk(batch.images, ready, batch.step_apart)
            losses += cross_entropies(logits, batch.labels)
            hits += (logits.argmax(1) == batch.labels).sum(1)
        return losses, hits

    def _hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        network = self._network
        ready = self._ready(rows, statistics)
        found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for batch in self._batches(len(rows)):
            logits = network.walk(batch.images, ready, batch.step)
            found += (logits.argmax(1) == batch.labels).sum(1)
        return found

    def _ready(self, rows: Tensor, statistics: Tensor) -> list[Affine]:
        network = self._network
        stages = stage_tensors(network.layout, rows, rows, statistics)
        return [affine(node.window, stage) for node, stage in zip(network.nodes, stages, strict=True)]

    def _batches(self, models: int) -> Iterator[Batch]:
        """The images in parts. Where they fit, they stay as the first layer needs them: they never change."""
        size = self._budget // (self._pixels * models)
        size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
        if size == self._size:
            yield from self._kept
            return
        parts = (self._batch(slice(start, start + size)) for start in range(0, len(self._labels), size))
        first = self._network.layout.layers[0]
        gathered = len(self._labels) * first.inputs * first.kernel**2 * first.side**2 * self._images.element_size()
        if gathered <= (GPU_KEPT if self._images.is_cuda else CPU_KEPT):
            self._size, self._kept = size, list(parts)
            yield from self._kept
        else:
            yield from parts

    def _batch(self, some: slice) -> Batch:
        images = self._images[some].permute(1, 2, 3, 0).contiguous().unsqueeze(0)
        columns = self._network.nodes[0].window.gather(images)
        return Batch(images=images, columns=columns, labels=self._labels[some])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images (1, channels, side, side, B), the pixels that the first layer gathers of them, and labels."""

    images: Tensor
    columns: Tensor
    labels: Tensor

    def step(self, images: Tensor, window: Window, stage: Affine, residual: Tensor | None) -> Tensor:
        """One stage of all models; the first one's gathered pixels are shared."""
        columns = self.columns if images is self.images else window.gather(images)
        return infer(columns, window, stage, residual)

    def step_apart(self, images: Tensor, window: Window, stage: Affine, residual: Tensor | None) -> Tensor:
        """The same with one product a model for the shared pixels too: none depends on the other models."""
        columns = self.columns if images is self.images else window.gather(images)
        return infer(columns.expand(len(stage.kernel), -1, -1), window, stage, residual)


class InTurn:
    """One model after another, by PyTorch's own convolutions of channels-last images that stay in a CPU's cache.

    Wide networks on images of CIFAR's size are judged faster than side by side: there is no gather, and no
    batch is too small for a matrix product to be worth its while.
    """

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._network = network
        bytes_ = largest_activation(network.layout.layers) * images.element_size()
        size = min(max(CONVOLVED_ACTIVATION // bytes_, SMALLEST_BATCH), LARGEST_BATCH)
        self._parts = [
            (some.contiguous(memory_format=torch.channels_last), names)
            for some, names in zip(torch.split(images, size), torch.split(labels, size), strict=True)
        ]

    def together(self, copies: int) -> int:
        return 1

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        return torch.stack([self._hits(row, moments) for row, moments in zip(rows, statistics, strict=True)])

    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        losses = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        hits = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for place, (row, moments) in enumerate(zip(rows, statistics, strict=True)):
            for logits, labels in self._logits(row, moments):
                losses[place] += cross_entropies(logits.mT[None], labels)[0]
                hits[place] += (logits.argmax(1) == labels).sum()
        return losses, hits

    def _hits(self, row: Tensor, moments: Tensor) -> Tensor:
        found = torch.zeros((), dtype=torch.int64, device=row.device)
        for logits, labels in self._logits(row, moments):
            found += (logits.argmax(1) == labels).sum()
        return found

    def _logits(self, row: Tensor, moments: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (B, classes) and labels (B) of each part of the images."""
        network = self._network
        kernels = [folded_kernel(stage) for stage in stage_tensors(network.layout, row[None], row[None], moments[None])]
        for images, labels in self._parts:
            yield network.walk(images, kernels, convolve, pool_planes), labels


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ log softmax(logits)[label] over the images of each model (M, float64), from logits (M, classes, B)."""
    places = labels.expand(len(logits), 1, -1)
    return -logits.log_softmax(1).gather(1, places).squeeze(1).sum(1, dtype=torch.float64)
