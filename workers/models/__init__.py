"""The implementations of the model families, under their names in `sweeps.models`."""

from __future__ import annotations

from qsweep.sweeps.components import Implementations

NETWORKS = Implementations("model")
