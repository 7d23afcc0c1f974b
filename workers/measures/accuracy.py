"""How many images perturbed models get right: a batch of models over the same images, counted on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sweeps.models import ConvLayer
from workers.measures.point import tensors_of
from workers.models.stage import infer_stage

CPU_ACTIVATION = 1 << 20
"""Bytes of the largest activation of one pass on a CPU: its cache."""
GPU_ACTIVATION = 1 << 29
LARGEST_BATCH = 1024
SMALLEST_BATCH = 16


class Examinees:
    """Images (S, channels, side, side, standardized) and labels (S) that models of one shape are judged by."""

    def __init__(self, network: Any, images: Tensor, labels: Tensor) -> None:
        self._network = network
        self._images, self._labels = images, labels
        self._pixels = largest_activation(network.layout.layers) * images.element_size()
        self._budget = GPU_ACTIVATION if images.is_cuda else CPU_ACTIVATION

    def __len__(self) -> int:
        return len(self._labels)

    def together(self, copies: int) -> int:
        """How many models with `copies` copies each are best judged in one pass."""
        return max(1, self._budget // (self._pixels * SMALLEST_BATCH * copies))

    @torch.no_grad()
    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        """Images that each of the models in `rows` (M, P, their weights as deployed) gets right (M, int64)."""
        stages = tensors_of(self._network.layout, rows, rows, statistics)
        found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for images, labels in self._batches(len(rows)):
            logits = self._network.evaluate(images, stages, infer_stage)
            found += (logits.argmax(1) == labels).sum(1)
        return found

    def _batches(self, models: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as one model's activations (1, channels, side, side, B), and their labels."""
        size = self._budget // (self._pixels * models)
        size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
        for start in range(0, len(self), size):
            some = slice(start, start + size)
            yield self._images[some].permute(1, 2, 3, 0).contiguous().unsqueeze(0), self._labels[some]


def largest_activation(layers: Sequence[ConvLayer]) -> int:
    """Numbers in the largest activation of one image."""
    return max(layer.outputs * layer.side**2 for layer in layers)
