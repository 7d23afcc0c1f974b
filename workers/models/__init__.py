"""The implementations of the model families, under their names in `sweeps.models`."""

from __future__ import annotations

from typing import Any

from qsweep.sweeps.components import Implementations
from qsweep.sweeps.training import Training

NETWORKS = Implementations("model")


def network_of(training: Training, *, quantized: bool = False) -> Any:
    """The `Network` of a training, with the signals that its quantizer of activations rounds; or of what its model was
    `quantized` to on images."""
    if quantized:
        from qsweep.workers.models.rounded import RoundedNetwork

        return RoundedNetwork(training.model, training.data)  # type: ignore[arg-type]
    family, quantizer = NETWORKS[training.model.name], training.activation_quantizer
    if quantizer is None:
        return family(training.model, training.data)
    return family(training.model, training.data, quantizer)
