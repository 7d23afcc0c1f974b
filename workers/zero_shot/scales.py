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


def quantized_weights(weight: Tensor, bits: int) -> Tensor:
    """Weights (C, …) rounded to the nearest of 2^bits levels, asymmetric, with a scale of each output channel.

    Δ = (max − min)·r/(2^bits − 1), zero = round(−min·r/Δ), ŵ = (clip(round(w/Δ) + zero, 0, 2^bits − 1) − zero)·Δ. A
    channel of equal weights of 0 stays.
    """
    rows, levels = weight.flatten(1), 2**bits - 1
    high, low = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    best, found = torch.full_like(high, torch.inf), rows.clone()
    for ratio in _ratios():
        step = (high - low) * ratio / levels
        zero = (-low * ratio / step).round()
        rounded = ((rows / step).round().add(zero).clamp(0, levels) - zero) * step
        error = (rows - rounded).abs().pow(POWER).mean(1, keepdim=True)
        better = error < best
        best, found = torch.where(better, error, best), torch.where(better, rounded, found)
    return found.view_as(weight)


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
