"""The quantizers' forward and backward passes, under their names in `sweeps.quantizers`."""

from __future__ import annotations

from qsweep.workers.quantizers.lsq import LsqWeights
from qsweep.workers.quantizers.quantizer import WeightQuantizer

QUANTIZATIONS: dict[str, type[WeightQuantizer]] = {"lsq": LsqWeights}
