"""Judging perturbed models by images that are read from their files: no more of them in memory than a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from qsweep.workers.data.source import Part
from qsweep.workers.data.stream import Stream
from qsweep.workers.evaluation import Tally, tally
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.inference import models_in_turn
from qsweep.workers.models.network import Network

BATCH = 64
"""Images of one pass: part of the numerics."""
KEPT = 1 << 32
"""Bytes of decoded images that stay in the machine's memory from one pass to the next; more are decoded again."""
CPU_ROWS = 1 << 30
GPU_ROWS = 1 << 33
"""Bytes that the weights of the models of one pass may take: all of them are judged by an image once it is decoded."""


def tally_of_files(
    network: Network,
    stream: Stream,
    batches: Iterable[tuple[Tensor, Tensor]],
    rows: Tensor,
    statistics: Tensor,
    tick: Callable[[], None] = lambda: None,
) -> Tally:
    """What becomes of models (M, P) over batches of the stream's pixels (uint8) and labels: each batch is judged by one
    model after another, so that it is decoded once."""
    logits = models_in_turn(network, rows, statistics)

    def logits_of(pixels: Tensor) -> Tensor:
        return logits(stream.standardized(pixels).contiguous(memory_format=torch.channels_last))

    on_device = ((pixels.to(rows.device), labels.to(rows.device)) for pixels, labels in batches)
    return tally(logits_of, on_device, len(rows), rows.device, tick=tick)


class FromFiles:
    """All models by each batch of images in turn: a `workers.measures.inference.Inference`."""

    def __init__(self, network: Network, stream: Stream, places: Tensor) -> None:
        self._network, self._stream, self._places = network, stream, places
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        self.seen = len(places)
        """Images that were decoded in the last pass: fewer than were asked for where broken ones are skipped."""

    def together(self, copies: int) -> int:
        bytes_ = self._network.layout.parameters_length * self._stream.dtype.itemsize
        return max(1, (GPU_ROWS if self._stream.is_cuda else CPU_ROWS) // (bytes_ * copies))

    def hits(self, rows: Tensor, statistics: Tensor) -> Tensor:
        return self.scores(rows, statistics).hits

    def scores(self, rows: Tensor, statistics: Tensor) -> Tally:
        found = tally_of_files(self._network, self._stream, self._batches(), rows, statistics)
        self.seen = found.images
        return found

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


class EvaluationSetFromFiles(EvaluationSet):
    """Training images at some `places` that models of one shape are judged by."""

    def __init__(self, network: Network, stream: Stream, places: Tensor) -> None:
        self._inference: FromFiles = FromFiles(network, stream, places)
        self.full_pass = self._inference.together(1)

    def __len__(self) -> int:
        return self._inference.seen

    @torch.no_grad()
    def scores(self, rows: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) and accuracy of each model (M, float64): no model's bits depend on others."""
        found = self._inference.scores(rows, statistics)
        return found.loss, found.accuracy
