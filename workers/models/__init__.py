"""The implementations of the model families, under their names in `sweeps.models`."""

from __future__ import annotations

from sweeps.components import Implementations

NETWORKS = Implementations("model")
