"""The quantizers' forward and backward passes, under their names in `sweeps.quantizers`."""

from __future__ import annotations

from qsweep.workers.quantizers.lsq import LsqWeights

QUANTIZATIONS = {"lsq": LsqWeights}
