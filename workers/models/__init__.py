"""The forward passes of the model families, under their names in `sweeps.models`."""

from __future__ import annotations

from workers.models.nin import NinNetwork

NETWORKS = {"nin": NinNetwork}
