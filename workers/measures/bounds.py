"""The generalization bounds that the flatness measures are reported as: pure functions of a search's answer.

Jiang et al. 2019 (arXiv 1912.02178) and Dziugaite et al. 2020 (arXiv 2010.11924), as QGen (arXiv 2404.11769)
uses them. Each returns √(value / m), without a unit: r is the vector w − w₀ ("Init") or w ("Orig") over the
weights of convolutions and linear layers, ω their number, m the number of training images. Where the value is
negative, and there is no root, they return NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError

EPSILON = 1e-3
"""ε of the magnitude-aware measures."""
DELTA = 0.01
"""δ of the magnitude-aware sharpness; 0.05, found in some code, contradicts the paper's ImageNet ResNet-18."""


def pac_bayes(distance_sq: float, sigma: float, m: int) -> float:
    """√((‖r‖²/(4σ²) + ln(m/σ) + 10) / m), with `distance_sq` = ‖r‖² and Gaussian noise N(0, σ²).

    >>> round(pac_bayes(130.686**2, 0.13283, 50_000), 3)  # QGen's NiN (4x10) FP32 on CIFAR-10
    2.2
    """
    _check(m, sigma=sigma)
    _check_square(distance_sq)
    return _root(distance_sq / (4 * sigma**2) + _rest(m, sigma), m)


def sharpness(distance_sq: float, alpha: float, omega: int, m: int, sigma: float = 1.0) -> float:
    """√((‖r‖²·ln(2ω)/(4α²) + ln(m/σ) + 10) / m), with `distance_sq` = ‖r‖² and the worst case in ‖u‖₂ ≤ α.

    >>> round(sharpness(130.686**2, 2.0, 2_196_750, 50_000), 3)  # QGen's NiN (4x10) FP32 on CIFAR-10
    0.572
    """
    _check(m, alpha=alpha, sigma=sigma, omega=omega)
    _check_square(distance_sq)
    return _root(distance_sq * math.log(2 * omega) / (4 * alpha**2) + _rest(m, sigma), m)


def pac_bayes_magnitude(
    distance_sq: float, squares: Tensor, sigma: float, m: int, *, epsilon: float = EPSILON
) -> float:
    """√((¼·Σᵢ ln[(ε² + (σ'² + 1)·‖r‖²/ω) / (ε² + σ'²·dᵢ²)] + ln(m/σ') + 10) / m).

    `squares` (ω) are the dᵢ² = (wᵢ − w₀ᵢ)², for Orig too in the reference code; σ' scales the noise with |wᵢ|.
    """
    _check(m, sigma=sigma, epsilon=epsilon)
    return _root(_logarithms(distance_sq, squares, sigma**2, 1.0, epsilon) + _rest(m, sigma), m)


def sharpness_magnitude(
    distance_sq: float,
    squares: Tensor,
    alpha: float,
    m: int,
    *,
    delta: float = DELTA,
    epsilon: float = EPSILON,
    sigma: float = 1.0,
) -> float:
    """√((¼·Σᵢ ln[(ε² + (α'² + 4·ln(2ω/δ))·‖r‖²/ω) / (ε² + α'²·dᵢ²)] + ln(m/σ') + 10) / m).

    `squares` (ω) are the dᵢ² = (wᵢ − w₀ᵢ)²; the worst case is over |uᵢ| ≤ α'·|wᵢ|.
    """
    _check(m, alpha=alpha, delta=delta, epsilon=epsilon, sigma=sigma)
    more = 4 * math.log(2 * squares.numel() / delta)
    return _root(_logarithms(distance_sq, squares, alpha**2, more, epsilon) + _rest(m, sigma), m)


def _logarithms(distance_sq: float, squares: Tensor, scale: float, more: float, epsilon: float) -> float:
    """¼·Σᵢ ln[(ε² + (scale + more)·‖r‖²/ω) / (ε² + scale·dᵢ²)], summed in float64."""
    _check_square(distance_sq)
    omega = squares.numel()
    if not omega or not bool((squares >= 0).all()):
        raise InputError("these are no squares", place="squares", allowed="allowed: at least one, all 0 or more")
    above = math.log(epsilon**2 + (scale + more) * distance_sq / omega)
    below = float(torch.log(squares.double() * scale + epsilon**2).sum())
    return (omega * above - below) / 4


def _rest(m: int, sigma: float) -> float:
    return math.log(m / sigma) + 10


def _root(value: float, m: int) -> float:
    return math.sqrt(value / m) if value >= 0 else math.nan


def _check(m: int, **positive: float) -> None:
    if m < 1:
        raise InputError(f"{m!r} is not a number of training images", place="m", allowed="allowed: 1 or more")
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{value!r} is not allowed", place=name, allowed="allowed: above 0, finite")


def _check_square(distance_sq: float) -> None:
    if not (math.isfinite(distance_sq) and distance_sq >= 0):
        raise InputError(f"{distance_sq!r} is not a squared norm", place="distance_sq", allowed="allowed: 0 or more")
