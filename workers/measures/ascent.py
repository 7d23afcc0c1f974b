"""The gradients that an ascent climbs by: of the training loss, at many perturbed copies of models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.workers.evaluation import cross_entropy
from qsweep.workers.measures.point import Point
from qsweep.workers.models.graph import is_large
from qsweep.workers.models.layout import AFFINE
from qsweep.workers.models.network import Network

GRAPH = 1 << 30
"""Bytes that the activations of one backward pass may take."""


class Ascent:
    """The loss's gradients around the `points`, each with `copies` displaced copies."""

    def __init__(self, network: Network, points: Sequence[Point], copies: int) -> None:
        self._network = network
        self._layout = network.layout
        self._points = [point for point in points for _ in range(copies)]
        self.centres = torch.stack([point.parameters for point in self._points])
        self._statistics = torch.stack([point.statistics for point in self._points])
        self._masks = torch.stack([point.mask for point in self._points])

    def gradients(self, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """∂(mean loss)/∂(perturbed parameters) (M, P) at the displacements `moved` (M, P).

        Where weights are rounded, it is that of the straight-through estimator, as in training. Of large images (B,
        channels, side, side) it is taken one copy after another, summed over parts of the batch: in evaluation mode no
        image's loss depends on another.
        """
        copies, part = 1, len(labels)
        size = 8 * self._network.activation * len(self._layout.groups) ** 0.5 * moved.element_size()
        if is_large(images):
            part = max(1, int(GRAPH // size))
        else:
            copies = max(1, int(GRAPH // (size * len(labels))))
        batch = list(zip(torch.split(images, part), torch.split(labels, part), strict=True))
        parts = [
            self._gradients(slice(first, first + copies), moved[first : first + copies], batch)
            for first in range(0, len(moved), copies)
        ]
        return torch.cat(parts)

    def _gradients(self, some: slice, moved: Tensor, batch: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        layout = self._layout
        rows = self.centres[some] + moved
        points = self._points[some]
        deployed, kept = rows.clone(), {}
        for number, point in enumerate(points):
            one = slice(number, number + 1)
            point.restrain(rows[one])
            if point.quantizer is not None:
                kept[number] = point.quantizer.quantize(rows[one], deployed[one], factor=point.scale)
        gradients = torch.zeros_like(rows)
        leaves = layout.leaves(layout.tensors(rows, deployed, self._statistics[some]))
        names = [spec.name for spec in layout.of_role(*AFFINE)]
        found = self._differentiated(self._network.views(leaves), [leaves[name] for name in names], batch)
        for name, gradient in zip(names, found, strict=True):
            layout[name].of(gradients).copy_(gradient)
        for number, rounding in kept.items():
            point = points[number]
            assert point.quantizer is not None
            point.quantizer.differentiate(rounding, gradients[number : number + 1], factor=point.scale)
        return gradients.mul_(self._masks[some])

    def _differentiated(
        self, views: Any, leaves: list[Tensor], batch: Sequence[tuple[Tensor, Tensor]]
    ) -> Sequence[Tensor]:
        """The mean loss's gradients in the leaves."""
        count = sum(len(labels) for _, labels in batch)
        total: list[Tensor] = []
        for images, labels in batch:
            loss = cross_entropy(self._network.evaluate(images, views), labels).sum() / count
            gradients = torch.autograd.grad(loss, leaves)
            total = [one + more for one, more in zip(total, gradients, strict=True)] if total else list(gradients)
        return total
