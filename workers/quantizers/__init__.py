"""What quantizes weights and activations, under the names of `sweeps.quantizers`, by the table of components."""

from __future__ import annotations

from qsweep.sweeps.components import Implementations

QUANTIZATIONS = Implementations("quantizer")
"""The `WeightQuantizer` of each of them."""
ACTIVATION_QUANTIZATIONS = Implementations("activation_quantizer")
"""The `ActivationQuantizer` of each of those of activations."""
