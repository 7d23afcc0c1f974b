"""Scales of a uniform quantizer that are found on the values themselves, without training.

Genie's (Jeon et al. 2023, arXiv 2212.04780; SamsungLabs/Genie, `quantizer.py`): of 100 clipping ratios r = 1.00 … 0.01
the one with the least mean |x − x̂|^2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POWER = 2.4
RATIOS = 100


@dataclass(frozen=True, kw_only=True)
class ActivationScale:
    """x̂ = clip(round(x/Δ), low, high)·Δ of one tensor."""

    step: Tensor
    """Δ, one number."""
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """ŵ = (clip(code, 0, 2^bits − 1) − zero)·Δ of each output channel of a weight (C, …)."""

    step: Tensor
    """Δ (C, 1)."""
    zero: Tensor
    """(C, 1), whole numbers."""
    levels: int
    """2^bits − 1."""

    def codes(self, weight: Tensor) -> Tensor:
        """Those of the nearest levels (C, weights of a channel)."""
        return ((weight.flatten(1) / self.step).round() + self.zero).clamp(0, self.levels)

    def values(self, codes: Tensor) -> Tensor:
        """What codes (C, weights of a channel) stand for."""
        return (codes - self.zero) * self.step


def weight_grid(weight: Tensor, bits: int) -> WeightGrid:
    """The grid of weights (C, …): asymmetric, with a scale of each output channel.

    Δ = (max − min)·r/(2^bits − 1), zero = round(−min·r/Δ). A channel of equal weights is on its grid.
    """
    rows, levels = weight.flatten(1), 2**bits - 1
    high, low = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    alike = high == low
    best_step = torch.where(high == 0, 1.0, high.abs())
    best_zero = torch.where(high < 0, 1.0, 0.0).to(rows)
    best = torch.where(alike, 0.0, torch.inf).to(rows)
    for ratio in _ratios():
        step = (high - low) * ratio / levels
        grid = WeightGrid(step=step, zero=(-low * ratio / step).round(), levels=levels)
        error = (rows - grid.values(grid.codes(weight))).abs().pow(POWER).mean(1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        best_step, best_zero = torch.where(better, step, best_step), torch.where(better, grid.zero, best_zero)
    return WeightGrid(step=best_step, zero=best_zero, levels=levels)


def activation_scale(values: Tensor, bits: int) -> ActivationScale:
    """The scale of one tensor: symmetric, signed if a value is negative."""
    signed = bool(values.min() < 0)
    high, low = (2 ** (bits - 1) - 1, -(2 ** (bits - 1))) if signed else (2**bits - 1, 0)
    most = values.abs().max()
    best, found = torch.full_like(most, torch.inf), most.clone()
    for ratio in _ratios():
        step = most * ratio * (2 if signed else 1) / (2**bits - 1)
        error = (values - round_activations(values, ActivationScale(step=step, low=low, high=high))).abs()
        error = error.pow(POWER).mean()
        better = error < best
        best, found = torch.where(better, error, best), torch.where(better, step, found)
    return ActivationScale(step=found, low=low, high=high)


def round_activations(values: Tensor, scale: ActivationScale) -> Tensor:
    """The rounded values; the gradient passes where nothing is clipped (straight-through)."""
    clipped = (values / scale.step).clamp(scale.low, scale.high)
    return (clipped + (clipped.round() - clipped).detach()) * scale.step


def _ratios() -> list[float]:
    return [1 - place / RATIOS for place in range(RATIOS)]
