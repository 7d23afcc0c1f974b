"""Judging perturbed models by images that are read from their files: no more of them in memory than a bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from qsweep.workers.data.source import Part
from qsweep.workers.data.stream import Stream
from qsweep.workers.measures.accuracy import Examinees
from qsweep.workers.measures.inference import cross_entropies
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.convolved import convolve, folded_kernel
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.network import stage_tensors

BATCH = 64
"""Images of one pass: part of the numerics."""
KEPT = 1 << 32
"""Bytes of decoded images that stay in the machine's memory from one pass to the next; more are decoded again."""
CPU_ROWS = 1 << 30
GPU_ROWS = 1 << 33
"""Bytes that the weights of the models of one pass may take: all of them are judged by an image once it is decoded."""


def scores_over(
    network: Any, stream: Stream, batches: Iterable[tuple[Tensor, Tensor]], rows: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor, int]:
    """The sum of each model's cross-entropies (M, float64, nats), its hits (M, int64), and how many images there were.

    `batches` are pixels (uint8) and labels of the stream's; each is judged by one model after another.
    """
    stages = stage_tensors(network.layout, rows, rows, statistics)
    kernels = [[folded_kernel(stage.of(model)) for stage in stages] for model in range(len(rows))]
    losses = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    hits = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    seen = 0
    for pixels, labels in batches:
        images = stream.standardized(pixels.to(rows.device)).contiguous(memory_format=torch.channels_last)
        labels = labels.to(rows.device)
        seen += len(labels)
        for model, some in enumerate(kernels):
            logits = network.walk(images, some, convolve, pool_planes)
            losses[model] += cross_entropies(logits.mT[None], labels)[0]
            hits[model] += (logits.argmax(1) == labels).sum()
    return losses, hits, seen


class FromFiles:
    """All models by each batch of images in turn: a `workers.measures.inference.Inference`."""

    def __init__(self, network: Any, stream: Stream, places: Tensor) -> None:
        self._network, self._stream, self._places = network, stream, places
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        self.seen = len(places)
        """Images that were decoded in the last pass: fewer than were asked for where broken ones are skipped."""

    def together(self, copies: int) -> int:
        layout: Layout = self._network.layout
        bytes_ = layout.parameters_length * self._stream.dtype.itemsize
        return max(1, (GPU_ROWS if self._stream.is_cuda else CPU_ROWS) // (bytes_ * copies))

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        return self.scores(rows, statistics)[1]

    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of each model's cross-entropies (M, float64), and its hits (M, int64)."""
        losses, hits, self.seen = scores_over(self._network, self._stream, self._batches(), rows, statistics)
        return losses, hits

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (uint8) and labels; kept where they fit."""
        if self._kept is not None:
            yield from self._kept
            return
        keeps = len(self._places) * 3 * self._stream.side**2 <= KEPT
        kept = []
        for pixels, labels in self._stream.pixels(Part.TRAIN, self._places, BATCH):
            if keeps:
                kept.append((pixels.cpu(), labels.cpu()))
            yield pixels, labels
        if keeps:
            self._kept = kept


class ExamineesFromFiles(Examinees):
    """Training images at some `places` that models of one shape are judged by."""

    def __init__(self, network: Any, stream: Stream, places: Tensor) -> None:
        self._inference: FromFiles = FromFiles(network, stream, places)
        self.full_pass = self._inference.together(1)

    def __len__(self) -> int:
        return self._inference.seen

    @torch.no_grad()
    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) and accuracy of each model (M, float64): no model's bits depend on others."""
        losses, hits = self._inference.scores(rows, statistics)
        return losses / len(self), hits.double() / len(self)
