"""Inference by perturbed models over the same images, side by side as in training or in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from qsweep.workers.evaluation import Tally, tally
from qsweep.workers.models.arithmetic import innermost
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.network import Network
from qsweep.workers.models.stage import Affine, NormTensors, affine, infer
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

    def scores(self, rows: Tensor, statistics: Tensor) -> Tally:
        """The models' cross-entropies and hits. A model's bits depend on M, and neither on the other models nor on its
        place among them."""


class SideBySide:
    """All models at once, as gather and batched matrix product: for a GPU, and for small images."""

    def __init__(self, network: ConvNetwork, images: Tensor, labels: Tensor) -> None:
        self._network = network
        self._images, self._labels = images, labels
        self._pixels = network.activation * images.element_size()
        self._size, self._kept = 0, list[tuple[Batch, Tensor]]()
        self._budget = GPU_ACTIVATION if images.is_cuda else CPU_ACTIVATION

    def together(self, copies: int) -> int:
        return max(1, self._budget // (self._pixels * GOOD_BATCH * copies))

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        chunk = max(1, 4 * self._budget // (self._pixels * SMALLEST_BATCH))
        parts = zip(torch.split(rows, chunk), torch.split(statistics, chunk), strict=True)
        return torch.cat([self._judged(*part, Batch.step, losses=False).hits for part in parts])

    def scores(self, rows: Tensor, statistics: Tensor) -> Tally:
        return self._judged(rows, statistics, Batch.step_apart, losses=True)

    def _judged(self, rows: Tensor, statistics: Tensor, step: Callable[..., Tensor], *, losses: bool) -> Tally:
        ready = self._ready(rows, statistics)

        def logits(batch: Batch) -> Tensor:
            return self._network.walk(batch.images, ready, partial(step, batch))

        return tally(logits, self._batches(len(rows)), len(rows), rows.device, losses=losses)

    def _ready(self, rows: Tensor, statistics: Tensor) -> list[Affine | NormTensors]:
        network = self._network
        stages = network.views(network.layout.tensors(rows, rows, statistics))
        return [
            stage if isinstance(stage, NormTensors) else affine(node.of_convolution, stage)
            for node, stage in zip(network.nodes, stages, strict=True)
        ]

    def _batches(self, models: int) -> Iterator[tuple[Batch, Tensor]]:
        """The images in parts. Where they fit, they stay as the first layer needs them: they never change."""
        size = self._budget // (self._pixels * models)
        size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
        if size == self._size:
            yield from self._kept
            return
        parts = (self._batch(slice(start, start + size)) for start in range(0, len(self._labels), size))
        first = self._network.nodes[0].of_convolution.layer
        gathered = len(self._labels) * first.inputs * first.kernel**2 * first.side**2 * self._images.element_size()
        if gathered <= (GPU_KEPT if self._images.is_cuda else CPU_KEPT):
            self._size, self._kept = size, list(parts)
            yield from self._kept
        else:
            yield from parts

    def _batch(self, some: slice) -> tuple[Batch, Tensor]:
        images = innermost(self._images[some])
        window = self._network.nodes[0].of_convolution
        return Batch(images=images, columns=window.gather(images)), self._labels[some]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images (1, channels, side, side, B), and the pixels that the first layer gathers of them."""

    images: Tensor
    columns: Tensor

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

    Any network is judged so that gathers no pixels. Wide convolutional ones on images of CIFAR's size are judged faster
    than side by side: there is no gather, and no batch is too small for a matrix product to be worth its while.
    """

    def __init__(self, network: Network, images: Tensor, labels: Tensor) -> None:
        self._network = network
        bytes_ = network.activation * images.element_size()
        size = min(max(CONVOLVED_ACTIVATION // bytes_, SMALLEST_BATCH), LARGEST_BATCH)
        self._parts = [
            (some.contiguous(memory_format=torch.channels_last) if some.dim() == 4 else some, names)
            for some, names in zip(torch.split(images, size), torch.split(labels, size), strict=True)
        ]

    def together(self, copies: int) -> int:
        return 1

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        return torch.cat([one.hits for one in self._judged(rows, statistics, losses=False)])

    def scores(self, rows: Tensor, statistics: Tensor) -> Tally:
        found = self._judged(rows, statistics, losses=True)
        hits = torch.cat([one.hits for one in found])
        return Tally(losses=torch.cat([one.sums for one in found]), hits=hits, images=found[0].images)

    def _judged(self, rows: Tensor, statistics: Tensor, *, losses: bool) -> list[Tally]:
        """Each model by all images: no more than one model's folded kernels are in memory."""
        models = zip(torch.split(rows, 1), torch.split(statistics, 1), strict=True)
        return [
            tally(models_in_turn(self._network, *model), self._parts, 1, rows.device, losses=losses) for model in models
        ]


def models_in_turn(network: Network, rows: Tensor, statistics: Tensor) -> Callable[[Tensor], Tensor]:
    """Computes logits (M, classes, B) of images (B, channels, side, side), channels-last, by models (M, P)."""
    return network.ready(network.views(network.layout.tensors(rows, rows, statistics)))
