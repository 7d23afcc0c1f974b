"""The perturbation ε of sharpness-aware methods, each model's own, over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qsweep.sweeps.methods import Asam, SharpnessAware
from qsweep.workers.models.layout import TRAINED, Layout, Role

SMALLEST_NORM = 1e-12
"""Added to ‖g‖: `davda54/sam`."""
SMALLEST_ADAPTIVE_NORM = 1e-16
"""Added to ‖T·g‖: `SamsungLabs/ASAM`."""


class Perturbation:
    """ε = ρ·S·g/(‖T·g‖ + δ) of M models: S and T are 1 but for ASAM, whose T = |p| + η and S = T² (or p²) on weights
    and scales (`sweeps.methods`).

    The rows behind those of `methods` are vacant: their ρ is 0.
    """

    def __init__(self, methods: Sequence[SharpnessAware], layout: Layout, parameters: Tensor) -> None:
        slots, device = len(parameters), parameters.device

        def column(value: Callable[[SharpnessAware], float]) -> Tensor:
            values = [*(float(value(one)) for one in methods), *[0.0] * (slots - len(methods))]
            return torch.tensor(values, dtype=torch.float64).to(device, parameters.dtype)[:, None]

        def columns(*roles: Role) -> Tensor:
            found = torch.zeros(layout.parameters_length, dtype=torch.bool)
            for span in layout.spans_of(*roles):
                found[span.start : span.stop] = True
            return found.to(device)

        steps, with_steps = columns(Role.STEP_SIZE), column(lambda one: one.ball_steps).bool()
        self._outside = ~(columns(*TRAINED) | steps & with_steps)
        self._rho = column(lambda one: one.rho)
        self._eta = column(lambda one: one.eta if isinstance(one, Asam) else 0.0)
        saq = column(_is_adaptive_as_saq).bool()
        adaptive = column(_is_adaptive).bool()
        self._delta = torch.where(adaptive, SMALLEST_ADAPTIVE_NORM, SMALLEST_NORM).to(parameters.dtype)
        self._adaptive = adaptive & columns(Role.WEIGHT, Role.SCALE) | saq & (steps | columns(Role.ACTIVATION_STEP))
        self._squared = self._adaptive & saq
        self._any_adaptive = any(map(_is_adaptive, methods))

    def of(self, parameters: Tensor, gradients: Tensor) -> Tensor:
        """ε (M, P) at `parameters` (M, P), up the `gradients` (M, P); 0 outside of the ball."""
        gradients = gradients.masked_fill(self._outside, 0.0)
        if not self._any_adaptive:
            return gradients * self._scale(gradients)
        size = parameters.abs()
        scaling = torch.where(self._adaptive, size + self._eta, 1.0)
        scaled = scaling * gradients
        stretch = torch.where(self._squared, size, scaling)
        return gradients * stretch * stretch * self._scale(scaled)

    def _scale(self, scaled: Tensor) -> Tensor:
        """ρ/(‖row‖ + δ) (M, 1). Row by row: a norm over a dimension shares its sum out by the number of rows."""
        norms = torch.stack([torch.linalg.vector_norm(row) for row in scaled])
        return self._rho / (norms[:, None] + self._delta)


def _is_adaptive(method: SharpnessAware) -> bool:
    return isinstance(method, Asam)


def _is_adaptive_as_saq(method: SharpnessAware) -> bool:
    return isinstance(method, Asam) and method.asam == "saq"
