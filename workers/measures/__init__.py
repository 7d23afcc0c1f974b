"""The flatness measures, under their names in `sweeps.measures`: what is searched for, and by which bound."""

from __future__ import annotations

from qsweep.workers.measures.measuring import BOUNDS, Measured, measure_models

__all__ = ["BOUNDS", "Measured", "measure_models"]
