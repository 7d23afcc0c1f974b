"""How many images perturbed models get right: a batch of models over the same images, counted on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweeps.layers import ConvLayer
from workers.models.network import stage_tensors
from workers.models.stage import Affine, affine, infer
from workers.models.window import Window

CPU_ACTIVATION = 1 << 20
"""Bytes of the largest activation of one pass on a CPU: its cache."""
GPU_ACTIVATION = 1 << 29
LARGEST_BATCH = 1024
CPU_KEPT = 1 << 28
GPU_KEPT = 1 << 33
"""Bytes that the gathered pixels of the first layer may take, to be kept through a search."""
SMALLEST_BATCH = 16
GOOD_BATCH = 128
"""Images of a pass below which it does not pay to judge more models together."""


class Examinees:
    """Images (S, channels, side, side, standardized) and labels (S) that models of one shape are judged by."""

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._network = network
        self._images, self._labels = images, labels
        self._pixels = largest_activation(network.layout.layers) * images.element_size()
        self._size, self._kept = 0, list[Batch]()
        self._budget = GPU_ACTIVATION if images.is_cuda else CPU_ACTIVATION

    def __len__(self) -> int:
        return len(self._labels)

    def together(self, copies: int) -> int:
        """How many models with `copies` copies each are best judged in one pass."""
        return max(1, self._budget // (self._pixels * GOOD_BATCH * copies))

    @torch.no_grad()
    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        """Images that each of the models in `rows` (M, P, their weights as deployed) gets right (M, int64)."""
        chunk = max(1, 4 * self._budget // (self._pixels * SMALLEST_BATCH))
        starts = range(0, len(rows), chunk)
        return torch.cat([self._hits(rows[one : one + chunk], statistics[one : one + chunk]) for one in starts])

    def _hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        network = self._network
        stages = stage_tensors(network.layout, rows, rows, statistics)
        ready = [affine(node.window, stage) for node, stage in zip(network.nodes, stages, strict=True)]
        found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for batch in self._batches(len(rows)):
            logits = network.walk(batch.images, ready, batch.step)
            found += (logits.argmax(1) == batch.labels).sum(1)
        return found

    def _batches(self, models: int) -> Iterator[Batch]:
        """The images in parts. Where they fit, they stay as the first layer needs them: they never change."""
        size = self._budget // (self._pixels * models)
        size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
        if size == self._size:
            yield from self._kept
            return
        parts = (self._batch(slice(start, start + size)) for start in range(0, len(self), size))
        first = self._network.layout.layers[0]
        gathered = len(self) * first.inputs * first.kernel**2 * first.side**2 * self._images.element_size()
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


def largest_activation(layers: Sequence[ConvLayer]) -> int:
    """Numbers in the largest activation of one image."""
    return max(layer.outputs * layer.side**2 for layer in layers)
