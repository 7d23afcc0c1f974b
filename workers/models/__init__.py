"""The implementations of the model families, under their names in `sweeps.models`."""

from __future__ import annotations

from qsweep.workers.models.graph import ConvNetwork

NETWORKS = {
    "nin": ConvNetwork,
    "resnet": ConvNetwork,
    "mobilenet": ConvNetwork,
    "mobilenet-v2": ConvNetwork,
    "vgg": ConvNetwork,
}
