"""The gradients that an ascent climbs by: of the training loss, at many perturbed copies of models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.workers.forms import LARGE_IMAGE
from qsweep.workers.measures.point import Point, clamp_steps, round_weights
from qsweep.workers.models.convolved import evaluate_in_turn
from qsweep.workers.models.graph import largest_activation
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.network import leaf_tensors, stage_tensors
from qsweep.workers.models.stage import StageTensors

GRAPH = 1 << 30
"""Bytes that the activations of one backward pass may take."""


class Ascent:
    """The loss's slopes around the `points`, each with `copies` displaced copies."""

    def __init__(self, network: Any, points: Sequence[Point], copies: int) -> None:
        self._network = network
        self._layout: Layout = network.layout
        self._points = [point for point in points for _ in range(copies)]
        self.centres = torch.stack([point.parameters for point in self._points])
        self._statistics = torch.stack([point.statistics for point in self._points])
        self._masks = torch.stack([point.mask for point in self._points])

    def slopes(self, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """∂(mean loss)/∂(perturbed parameters) (M, P) at the displacements `moved` (M, P).

        Where weights are rounded, it is that of the straight-through estimator, as in training.
        """
        layers = self._layout.layers
        if images.shape[-1] ** 2 > LARGE_IMAGE:
            return torch.cat([self._slopes(slice(one, one + 1), moved[one : one + 1], images, labels)
                              for one in range(len(moved))])  # fmt: skip
        size = 8 * largest_activation(layers) * len(layers) ** 0.5 * len(labels) * moved.element_size()
        chunk = max(1, int(GRAPH // size))
        images = images.permute(1, 2, 3, 0).contiguous().unsqueeze(0)
        parts = [
            self._slopes(slice(first, first + chunk), moved[first : first + chunk], images, labels)
            for first in range(0, len(moved), chunk)
        ]
        return torch.cat(parts)

    def _slopes(self, some: slice, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        layout = self._layout
        rows = self.centres[some] + moved
        points = self._points[some]
        deployed, kept = rows.clone(), {}
        for number, point in enumerate(points):
            if point.bits is not None:
                one = slice(number, number + 1)
                clamp_steps(layout, rows[one])
                steps = layout.steps.of(rows[one])
                kept[number] = round_weights(layout, point.bits, point.scale, deployed[one], steps)
        slopes = torch.zeros_like(rows)
        stages = leaf_tensors(stage_tensors(layout, rows, deployed, self._statistics[some]))
        found = self._differentiated(stages, images, labels)
        places = [one for spans in layout.spans for one in spans.affine]
        for place, slope in zip(places, found, strict=True):
            place.of(slopes).copy_(slope)
        for number, roundings in kept.items():
            _differentiate(layout, points[number], roundings, slopes[number : number + 1])
        return slopes.mul_(self._masks[some])

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
            slopes = torch.autograd.grad(loss, leaves)
            total = [one + slope for one, slope in zip(total, slopes, strict=True)] if total else list(slopes)
        return total


def _differentiate(layout: Layout, point: Point, roundings: Sequence[tuple[Tensor, Tensor]], slopes: Tensor) -> None:
    """Turn the slopes (1, P) of deployed weights into those of latent weights and step sizes, by LSQ's rules."""
    assert point.bits is not None
    for index, ((rounded, ratio), bits, spans) in enumerate(zip(roundings, point.bits, layout.spans, strict=True)):
        place = slice(spans.weight.start, spans.weight.stop)
        high = 2.0 ** (bits - 1) - 1
        inside = ((ratio >= -high - 1) & (ratio <= high)).to(slopes.dtype)
        slope = slopes[:, place] if point.scale is None else slopes[:, place] * point.scale[place]
        of_step = (slope * (rounded - ratio * inside)).sum() / (rounded.numel() * high) ** 0.5
        slopes[:, place] *= inside
        slopes[0, layout.steps.start + index] = of_step
