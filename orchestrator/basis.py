"""What an estimate of time rests on."""

from __future__ import annotations

from enum import StrEnum


class Basis(StrEnum):
    """What an estimate rests on, the surest first."""

    MEASURED = "measured here"
    SHAPE = "measured here on the same shape"
    CALIBRATED = "calibrated here"
    SCALED = "scaled from another shape by counted operations"
    GUESS = "rough estimate"
