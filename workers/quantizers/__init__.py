"""The quantizers' forward and backward passes, under their names in `sweeps.quantizers`."""

from __future__ import annotations

from workers.quantizers.lsq import LsqWeights
from workers.quantizers.quantizer import WeightQuantizer

QUANTIZATIONS: dict[str, type[WeightQuantizer]] = {"lsq": LsqWeights}
