"""The data sets, under their names in `sweeps.datasets`."""

from __future__ import annotations

from workers.data.images import Images, load

__all__ = ["Images", "load"]
