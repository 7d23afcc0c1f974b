"""How a cohort is computed on a device: the number of slots and the form of its convolutions.

The planner reads this too, so it knows no torch.
"""

from __future__ import annotations

from enum import StrEnum

from sweeps.training import Training


class Form(StrEnum):
    """How the convolutions of M models are computed. A model's bits depend on the form and the slots."""

    GATHER = "gather"
    """Gathered pixels, then one batched matrix product; see `workers.models.stage`."""


SMALL_IMAGE = 256
"""Pixels of an image up to which models are trained side by side on a CPU."""
CPU_SLOTS = 12
GPU_SLOTS = 8


def default_form(training: Training, device_class: str) -> tuple[int, Form]:
    """Slots and form for a training on a class of devices, before any calibration there."""
    if device_class.startswith("cuda"):
        return GPU_SLOTS, Form.GATHER
    small = training.data.size**2 <= SMALL_IMAGE
    return (CPU_SLOTS if small else 1), Form.GATHER
