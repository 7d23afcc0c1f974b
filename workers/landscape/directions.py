"""Filter-normalized Gaussian directions (Li et al. 2018, arXiv 1712.09913, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.workers.measures import draws
from qsweep.workers.models.layout import Layout, Role

EPSILON = 1e-10
"""Added to the norm of a filter's direction before it divides, as the reference code does."""


def gaussian_direction(layout: Layout, seed: int, number: int) -> Tensor:
    """Standard normal numbers (P, float32) for every weight; 0 for biases, batch norm and step sizes.

    A layer's numbers depend on the seed, the direction's `number`, the layer's name and its shape alone, so models
    of one architecture share them whatever their precision.
    """
    direction = torch.zeros(1, layout.parameters_length)
    for spec in layout.of_role(Role.WEIGHT):
        drawn = draws.generator(seed, f"direction/{spec.layer}", number, *spec.shape)
        layout[spec.name].of(direction).normal_(generator=drawn)
    return direction[0]


def filter_normalized(direction: Tensor, parameters: Tensor, layout: Layout) -> Tensor:
    """d·‖w‖/(‖d‖ + 1e-10) of each filter, the slice of one output channel, of `direction` and `parameters` (P)."""
    normalized = direction.to(parameters.dtype, copy=True)
    for span in layout.spans_of(Role.WEIGHT):
        moved, weight = (span.of(row[None])[0].flatten(1) for row in (normalized, parameters))
        norms = [torch.linalg.vector_norm(one.double(), dim=1, keepdim=True) for one in (weight, moved)]
        moved.mul_((norms[0] / (norms[1] + EPSILON)).to(moved.dtype))
    return normalized


def cosine(one: Tensor, other: Tensor) -> float:
    """⟨a, b⟩/(‖a‖·‖b‖): 0 of orthogonal directions."""
    first, second = one.double(), other.double()
    return float(first @ second / (first.norm() * second.norm()))
