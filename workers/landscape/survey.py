"""The losses at the points of a landscape: models moved along directions, or from one to another, a pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.landscape import BETWEEN, PLANE, Landscape, check_pair
from qsweep.sweeps.training import Training
from qsweep.workers.data import Collection, Part, source_of
from qsweep.workers.device import set_precision
from qsweep.workers.landscape.directions import cosine, filter_normalized, gaussian_direction
from qsweep.workers.measures import draws
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.measuring import evaluation_set_of
from qsweep.workers.measures.point import Point, make_point
from qsweep.workers.models import network_of
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.network import Network
from qsweep.workers.quantizers.deployment import quantizer_of


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Mean cross-entropy (nats; not finite where the model overflows) and accuracy (0 to 1) at some points."""

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


class Survey:
    """One landscape of one trained model (of two for `view = "between"`), ready to be asked for its points; or of what
    it was `quantized` to on images.

    Memory is bounded by the pass: `full_pass` moved models over one batch of images. A point's bits depend on the
    model, what is asked, and device and build alone, so the points may be asked for in any parts.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        models: Sequence[Mapping[str, Tensor]],
        asked: Landscape,
        images: Collection,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        quantized: bool = False,
    ) -> None:
        assert len(trainings) == len(models) == (2 if asked.view == BETWEEN else 1)
        first = trainings[0]
        if asked.view == BETWEEN:
            check_pair(first, trainings[1], asked)
        self.asked = asked
        asked.images(first)
        network = network_of(first, quantized=quantized)
        self._layout: Layout = network.layout
        self._device = device
        points = [make_point(one, model, network, asked, dtype) for one, model in zip(trainings, models, strict=True)]
        rounds = points[0].quantizer is not None
        self._quantizer = quantizer_of(first, self._layout, device, dtype) if rounds else None
        self._move = self._line(points) if asked.view == BETWEEN else self._plane(points[0])
        self._evaluation_set = _evaluation_set(network, first, asked, images, device, dtype)

    cosine: float | None = None
    """Of the angle between d₁ and d₂ of a plane: they are not orthogonalized."""

    @property
    def images(self) -> int:
        """How many images decide."""
        return len(self._evaluation_set)

    @property
    def full_pass(self) -> int:
        """How many points are judged at once."""
        return self._evaluation_set.full_pass

    @torch.no_grad()
    def scores(self, first: int, count: int, tick: Callable[[], None] = lambda: None) -> Scores:
        """Loss and accuracy at `count` points from the place `first` on. Calls `tick` after each pass."""
        set_precision("fp32")
        places = range(first, min(first + count, self.asked.size))
        losses, accuracies = [], []
        for start in range(0, len(places), self.full_pass):
            some = places[start : start + self.full_pass]
            loss, accuracy = self._judged(
                torch.tensor([self.asked.coordinates(place) for place in some], dtype=torch.float64)
            )
            losses += loss.tolist()
            accuracies += accuracy.tolist()
            tick()
        return Scores(losses=tuple(losses), accuracies=tuple(accuracies))

    def _judged(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        rows, statistics = self._move(coordinates)
        if self._quantizer is not None:
            self._quantizer.round_copies(rows)
        return self._evaluation_set.scores(rows, statistics)

    def _plane(self, point: Point) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Moves the point along filter-normalized directions: coordinates (M, 1 or 2) to rows (M, P) and (M, S)."""
        count = 2 if self.asked.view == PLANE else 1
        raw = (gaussian_direction(self._layout, self.asked.seed, number) for number in range(count))
        directions = [filter_normalized(one, point.parameters, self._layout) for one in raw]
        if count == 2:
            self.cosine = cosine(*directions)
        centre, statistics = point.parameters.to(self._device), point.statistics.to(self._device)
        axes = [one.to(self._device) for one in directions]

        def move(coordinates: Tensor) -> tuple[Tensor, Tensor]:
            rows = centre.repeat(len(coordinates), 1)
            for axis, values in zip(axes, coordinates.mT, strict=True):
                rows += axis * values.to(centre)[:, None]
            return rows, statistics.expand(len(rows), -1)

        return move

    def _line(self, points: Sequence[Point]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Moves from one point to the other, parameters, step sizes and batch norm's statistics alike."""
        ends = [(point.parameters.to(self._device), point.statistics.to(self._device)) for point in points]

        def move(coordinates: Tensor) -> tuple[Tensor, Tensor]:
            share = coordinates.to(ends[0][0])
            return torch.lerp(ends[0][0], ends[1][0], share), torch.lerp(ends[0][1], ends[1][1], share)

        return move


def _evaluation_set(
    network: Network,
    training: Training,
    asked: Landscape,
    images: Collection,
    device: torch.device,
    dtype: torch.dtype,
) -> EvaluationSet:
    """The training images that decide, without augmentation: those that a measure of this sample and seed takes."""
    source = source_of(images, training.recipe, device, dtype)
    return evaluation_set_of(network, source, draws.balanced(source.labels(Part.TRAIN), asked.samples, asked.seed))
