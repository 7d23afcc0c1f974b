"""One measure of the trained models of a cohort: points, searches, bounds."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.measures import Flatness, PacBayes, Sharpness
from qsweep.sweeps.text import finite
from qsweep.sweeps.training import Training
from qsweep.workers.data import Collection, Part, Source, source_of
from qsweep.workers.data.stream import Stream
from qsweep.workers.measures import bounds, draws
from qsweep.workers.measures.bisection import Bisection
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.files import EvaluationSetFromFiles
from qsweep.workers.measures.perturbation import Climb, Noise
from qsweep.workers.measures.point import Point, make_point
from qsweep.workers.measures.search import Perturbation, run_searches
from qsweep.workers.models import network_of
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.network import Network
from qsweep.workers.results import initial_row


@dataclass(frozen=True, kw_only=True)
class Distances:
    """What the bounds need of a point, over the counted weights alone."""

    norm_sq: float
    distance_sq: float
    initial_sq: float
    squares: Tensor
    """(wᵢ − w₀ᵢ)² (ω), float64."""
    own_squares: Tensor
    """wᵢ² (ω), float64."""


Measured = dict[str, Any]
"""The measure's columns of one row of `measures`."""


def measure_models(
    trainings: Sequence[Training],
    models: Sequence[Mapping[str, Tensor]],
    measure: Flatness,
    images: Collection,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    quantized: bool = False,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> list[Measured]:
    """Measure models of one shape and data set side by side, each as if it were alone: those of the trainings, or what
    these were `quantized` to on images."""
    first = trainings[0]
    network = network_of(first, quantized=quantized)
    layout = network.layout
    points = [
        make_point(one, model, network, measure, dtype, device=device)
        for one, model in zip(trainings, models, strict=True)
    ]
    source = source_of(images, first.recipe, device, dtype)
    labels = source.labels(Part.TRAIN)
    places = draws.balanced(labels, measure.measure_samples, measure.measure_seed)
    evaluation_set = evaluation_set_of(network, source, places)

    def at(some: Tensor) -> tuple[Tensor, Tensor]:
        return next(source.chosen(some, len(some)))

    perturbation: Perturbation
    if isinstance(measure, PacBayes):
        perturbation = Noise(measure=measure)
    else:
        perturbation = Climb(measure=measure, network=network, images=at, train_images=len(labels))
    try:
        clean, searches = run_searches(points, measure, evaluation_set, perturbation, tick)
    finally:
        source.close()
    return [
        _describe(training, measure, layout, point, accuracy, search, len(evaluation_set))
        for training, point, accuracy, search in zip(trainings, points, clean, searches, strict=True)
    ]


def evaluation_set_of(network: Network, source: Source, places: Tensor) -> EvaluationSet:
    """The images that decide the accuracies: in memory, or from their files."""
    if isinstance(source, Stream):
        return EvaluationSetFromFiles(network, source, places)
    images, labels = next(source.chosen(places, len(places)))
    return EvaluationSet(network, images, labels)


def _describe(
    training: Training,
    measure: Flatness,
    layout: Layout,
    point: Point,
    clean: float,
    search: Bisection,
    samples: int,
) -> Measured:
    distances = distances_of(point, layout)
    m = samples if measure.m_from == "samples" else training.train_images
    last = search.trace[-1]
    of_init, of_orig = (
        BOUNDS[measure.name](measure, distances, square, last.radius, m)
        for square in (distances.distance_sq, distances.norm_sq)
    )
    initial = initial_row(training, layout)[: layout.weights]
    return {
        "init_hash": hashlib.sha256(initial.numpy().tobytes()).hexdigest()[:32],
        "diverged": False,
        "radius": last.radius,
        "flatness": 1 / last.radius**2,
        "value_init": finite(of_init),
        "value_orig": finite(of_orig),
        "candidates": len(search.trace),
        "reached": last.displacement,
        "converged": search.converged,
        "saturated": search.saturated_end is not None,
        "saturated_end": search.saturated_end,
        "clean_accuracy": clean,
        "samples": samples,
        "m": m,
        "omega": layout.omega,
        "folded": point.folded,
        "weight_norm": math.sqrt(distances.norm_sq),
        "init_norm": math.sqrt(distances.initial_sq),
        "distance": math.sqrt(distances.distance_sq),
        "trace": [dataclasses.asdict(candidate) for candidate in search.trace],
    }


def distances_of(point: Point, layout: Layout) -> Distances:
    """Norms of w, w − w₀ and w₀ in the coordinates of the point, in float64."""
    weights = layout.counted(point.parameters).double()
    initial = layout.counted(point.initial).double()
    squares, own = (weights - initial).square(), weights.square()
    return Distances(
        norm_sq=float(own.sum()),
        distance_sq=float(squares.sum()),
        initial_sq=float(initial.square().sum()),
        squares=squares,
        own_squares=own,
    )


def _pac_bayes(measure: PacBayes, distances: Distances, square: float, sigma: float, m: int) -> float:
    if measure.scaling == "plain":
        return bounds.pac_bayes(square, sigma, m)
    squares = _denominator(measure, distances, square)
    return bounds.pac_bayes_magnitude(square, squares, sigma, m, epsilon=measure.magnitude_epsilon)


def _sharpness(measure: Sharpness, distances: Distances, square: float, alpha: float, m: int) -> float:
    if measure.scaling == "plain":
        return bounds.sharpness(square, alpha, distances.squares.numel(), m)
    squares, epsilon = _denominator(measure, distances, square), measure.magnitude_epsilon
    return bounds.sharpness_magnitude(square, squares, alpha, m, delta=measure.delta, epsilon=epsilon)


def _denominator(measure: Flatness, distances: Distances, square: float) -> Tensor:
    """w − w₀ for Init and Orig alike, as the reference code has it; or each one's own r."""
    own = measure.denominator == "r" and square == distances.norm_sq
    return distances.own_squares if own else distances.squares


BOUNDS: dict[str, Callable[[Any, Distances, float, float, int], float]] = {
    "pac_bayes": _pac_bayes,
    "sharpness": _sharpness,
}
"""√(bound/m) of a measure, by its name: from its conventions, the distances, ‖r‖², the radius and m."""
