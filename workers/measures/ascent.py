"""The gradients that an ascent climbs by: of the training loss, at many perturbed copies of models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.forms import LARGE_IMAGE
from workers.measures.point import Point
from workers.models.convolved import evaluate_in_turn
from workers.models.graph import largest_activation
from workers.models.layout import Layout
from workers.models.network import leaf_tensors, stage_tensors
from workers.models.stage import StageTensors

GRAPH = 1 << 30
"""Bytes that the activations of one backward pass may take."""


class Ascent:
    """The loss's gradients around the `points`, each with `copies` displaced copies."""

    def __init__(self, network: Any, points: Sequence[Point], copies: int) -> None:
        self._network = network
        self._layout: Layout = network.layout
        self._points = [point for point in points for _ in range(copies)]
        self.centres = torch.stack([point.parameters for point in self._points])
        self._statistics = torch.stack([point.statistics for point in self._points])
        self._masks = torch.stack([point.mask for point in self._points])

    def gradients(self, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """∂(mean loss)/∂(perturbed parameters) (M, P) at the displacements `moved` (M, P).

        Where weights are rounded, it is that of the straight-through estimator, as in training.
        """
        layers = self._layout.layers
        if images.shape[-1] ** 2 > LARGE_IMAGE:
            return torch.cat([self._gradients(slice(one, one + 1), moved[one : one + 1], images, labels)
                              for one in range(len(moved))])  # fmt: skip
        size = 8 * largest_activation(layers) * len(layers) ** 0.5 * len(labels) * moved.element_size()
        chunk = max(1, int(GRAPH // size))
        images = images.permute(1, 2, 3, 0).contiguous().unsqueeze(0)
        parts = [
            self._gradients(slice(first, first + chunk), moved[first : first + chunk], images, labels)
            for first in range(0, len(moved), chunk)
        ]
        return torch.cat(parts)

    def _gradients(self, some: slice, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        layout = self._layout
        rows = self.centres[some] + moved
        points = self._points[some]
        deployed, kept = rows.clone(), {}
        for number, point in enumerate(points):
            if point.quantizer is not None:
                one = slice(number, number + 1)
                point.quantizer.restrain(rows[one])
                kept[number] = point.quantizer.quantize(rows[one], deployed[one], factor=point.scale)
        gradients = torch.zeros_like(rows)
        stages = leaf_tensors(stage_tensors(layout, rows, deployed, self._statistics[some]))
        found = self._differentiated(stages, images, labels)
        places = [one for spans in layout.spans for one in spans.affine]
        for place, gradient in zip(places, found, strict=True):
            place.of(gradients).copy_(gradient)
        for number, rounding in kept.items():
            point = points[number]
            assert point.quantizer is not None
            point.quantizer.differentiate(rounding, gradients[number : number + 1], factor=point.scale)
        return gradients.mul_(self._masks[some])

    def _differentiated(self, stages: Sequence[StageTensors], images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """The mean loss's gradients in the tensors of the stages; of large images (B, channels, side, side) it is
        summed over parts of the batch, as in evaluation mode no image's loss depends on another."""
        leaves = [leaf for stage in stages for leaf in stage.affine]
        if images.dim() == 5:
            logits = self._network.evaluate(images, stages)
            loss = -logits.log_softmax(1).gather(1, labels.expand(len(logits), 1, -1)).squeeze(1).mean(1).sum()
            return torch.autograd.grad(loss, leaves)
        layers = self._layout.layers
        size = 8 * largest_activation(layers) * len(layers) ** 0.5 * images.element_size()
        part = max(1, int(GRAPH // size))
        total: list[Tensor] = []
        for some, names in zip(torch.split(images, part), torch.split(labels, part), strict=True):
            logits = evaluate_in_turn(self._network, some, stages)
            loss = -logits.log_softmax(1).gather(1, names.expand(len(logits), 1, -1)).sum() / len(labels)
            gradients = torch.autograd.grad(loss, leaves)
            total = [one + more for one, more in zip(total, gradients, strict=True)] if total else list(gradients)
        return total
