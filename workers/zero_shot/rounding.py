"""AdaRound (Nagel et al. 2020, arXiv 2004.10568) with a learned scale, as in Genie (`quantizer.py`).

ŵ = (clip(floor(w/Δ₀) + h(V) + zero, 0, 2^bits − 1) − zero)·Δ with h(V) = clip(1.2·σ(V) − 0.1, 0, 1): V and Δ are
learned, the floor and the zero stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.workers.zero_shot.scales import WeightGrid

STRETCH, OFFSET = 1.2, 0.1
REGULARIZED_FROM = 0.2
"""Share of the steps before the term that draws roundings to a decision."""
FIRST_POWER, LAST_POWER = 20.0, 2.0
"""β of that term, from its first step to the last."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Of one weight, by output channel (C, weights of a channel)."""

    grid: WeightGrid
    """With the scale that was searched for."""
    floors: Tensor

    @classmethod
    def of(cls, weight: Tensor, grid: WeightGrid) -> Rounding:
        return cls(grid=grid, floors=(weight.flatten(1) / grid.step).floor())

    def initial(self, weight: Tensor) -> Tensor:
        """V such that h(V) is what the floor leaves of w/Δ₀: as if nothing were rounded. Above ½ it is ≥ 0."""
        left = weight.flatten(1) / self.grid.step - self.floors
        return -torch.log(STRETCH / (left + OFFSET) - 1)

    def values(self, up: Tensor, step: Tensor) -> Tensor:
        """The weights (C, weights of a channel) that are `up` (0 … 1) from their floors, on a scale (C, 1)."""
        return (self.codes(up) - self.grid.zero) * step

    def codes(self, up: Tensor) -> Tensor:
        """The levels 0 … 2^bits − 1; whole numbers where `up` is."""
        return (self.floors + up + self.grid.zero).clamp(0, self.grid.levels)


def soft(variables: Tensor) -> Tensor:
    """h(V)."""
    return (STRETCH * variables.sigmoid() - OFFSET).clamp(0, 1)


def hard(variables: Tensor) -> Tensor:
    """1 where V ≥ 0, otherwise 0."""
    return (variables >= 0).to(variables)


def power(iteration: int, iterations: int) -> float | None:
    """β in an iteration; None while the term is left out."""
    begin = REGULARIZED_FROM * iterations
    if iteration < begin:
        return None
    return FIRST_POWER + (LAST_POWER - FIRST_POWER) * (iteration - begin) / (iterations - begin)


def undecided(variables: Tensor, exponent: float) -> Tensor:
    """Σ (1 − |2·h(V) − 1|^β): 0 where each h is 0 or 1."""
    return (1 - (2 * soft(variables) - 1).abs().pow(exponent)).sum()


def cosine(rate: float, iteration: int, iterations: int) -> float:
    """A learning rate that falls from `rate` to 0."""
    return rate * (1 + math.cos(math.pi * iteration / iterations)) / 2
