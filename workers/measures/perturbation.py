"""The perturbed copies of the points of a cohort: Gaussian noise, or the end of an ascent in a ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.workers.measures import draws
from qsweep.workers.measures.ascent import Ascent
from qsweep.workers.measures.point import Point

Images: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Standardized training images and labels at these places."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Independent Gaussian noise on every perturbed parameter. Copies of one candidate have their own; models
    of a cohort share it."""

    measure: PacBayes

    def rows(self, points: Sequence[Point], radii: Sequence[float], iteration: int) -> Tensor:
        """Perturbed parameters (models·copies, P), a model's copies one after the other."""
        like = points[0].parameters
        noise = draws.gaussian(self.measure.measure_seed, iteration, self.measure.copies, like.numel())
        noise = noise.to(like.device, like.dtype)
        parts = [
            point.parameters + noise * (deviation(self.measure, point.parameters, radius) * point.mask)
            for point, radius in zip(points, radii, strict=True)
        ]
        return torch.cat(parts)


def deviation(measure: PacBayes, parameters: Tensor, sigma: float) -> Tensor:
    """Standard deviation of each parameter's noise (P).

    `corrected`: σ, or √(σ'²w² + ε²) magnitude-aware. `reference`: the square of that, as the reference code
    hands the variance to a sampler that expects the deviation.
    """
    if measure.scaling == "magnitude":
        variance = parameters.square() * sigma**2 + measure.magnitude_epsilon**2
    else:
        variance = torch.full_like(parameters, sigma**2)
    return variance if measure.noise_std == "reference" else variance.sqrt()


@dataclass(frozen=True, kw_only=True)
class Climb:
    """The ends of gradient ascents from random starts in a ball, projected on it after every step."""

    measure: Sharpness
    network: Any
    images: Images
    train_images: int

    def rows(self, points: Sequence[Point], radii: Sequence[float], iteration: int) -> Tensor:
        """Perturbed parameters (models·copies, P), a model's copies one after the other."""
        measure = self.measure
        limits = [ball_limits(measure, point) for point in points]
        moved = torch.cat(
            [
                start(measure, point, limit, radius, iteration)
                for point, limit, radius in zip(points, limits, radii, strict=True)
            ]
        )
        ascent = Ascent(self.network, points, measure.copies)
        for step in range(measure.ascent_steps):
            places = draws.places(measure.measure_seed, iteration, step, measure.ascent_batch, self.train_images)
            moved += ascent.gradients(moved, *self.images(places)) * measure.ascent_rate
            for number, (limit, radius) in enumerate(zip(limits, radii, strict=True)):
                project(moved[number * measure.copies : (number + 1) * measure.copies], limit, radius)
        ends: Tensor = ascent.centres + moved
        return ends


def ball_limits(measure: Sharpness, point: Point) -> Tensor | None:
    """How far each parameter may move at α' = 1 (P); None where the whole vector's length is bounded."""
    if measure.scaling == "plain":
        return None
    size = point.parameters.abs()
    return (size + 1 if measure.ball == "relative-plus-one" else size) * point.mask


def start(measure: Sharpness, point: Point, limit: Tensor | None, radius: float, iteration: int) -> Tensor:
    """Starts (copies, P): uniform in the ball of this radius, or its centre."""
    like, copies, seed = point.parameters, measure.copies, measure.measure_seed
    if measure.start == "centre":
        return like.new_zeros(copies, like.numel())
    if limit is not None:
        return draws.uniform(seed, iteration, copies, like.numel()).to(like.device, like.dtype) * limit * radius
    direction = draws.gaussian(seed, iteration, copies, like.numel()).to(like.device, like.dtype) * point.mask
    reach = draws.radii(seed, iteration, copies).double().pow(1 / float(point.mask.sum()))
    reach = reach.to(like.device, like.dtype)
    length: Tensor = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    return direction * (reach[:, None] / length * radius)


def project(moved: Tensor, limit: Tensor | None, radius: float) -> None:
    """Bring displacements (copies, P) back into the ball, in place: ‖u‖₂ ≤ α, or |uᵢ| ≤ α'·limitᵢ."""
    if limit is None:
        length = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
        moved.mul_((radius / length).clamp(max=1.0))
    else:
        torch.clamp(moved, -limit * radius, limit * radius, out=moved)
