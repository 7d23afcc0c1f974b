"""The data sets, under their names in `sweeps.datasets`."""

from __future__ import annotations

from workers.data.images import Images, load
from workers.data.staging import load_staged

__all__ = ["Images", "load", "load_staged"]
