"""The quantizers' forward and backward passes, under their names in `sweeps.quantizers`."""

from __future__ import annotations

from sweeps.components import Implementations

QUANTIZATIONS = Implementations("quantizer")
