"""The gradients that an ascent climbs by: of the training loss, at many perturbed copies of models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.measures.point import Point, clamp_steps, round_weights
from workers.models.graph import largest_activation
from workers.models.layout import Layout
from workers.models.network import leaf_tensors, stage_tensors

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
        logits = self._network.evaluate(images, stages)
        loss = -logits.log_softmax(1).gather(1, labels.expand(len(rows), 1, -1)).squeeze(1).mean(1).sum()
        found = torch.autograd.grad(loss, [leaf for stage in stages for leaf in stage.affine])
        places = [one for spans in layout.spans for one in spans.affine]
        for place, slope in zip(places, found, strict=True):
            place.of(slopes).copy_(slope)
        for number, roundings in kept.items():
            _differentiate(layout, points[number], roundings, slopes[number : number + 1])
        return slopes.mul_(self._masks[some])


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
