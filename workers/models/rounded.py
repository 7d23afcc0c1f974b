"""Convolutional networks whose tensors are rounded once for all that read or add them: what a quantization on images
makes of a trained model. Their weights are rounded as they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.layers import NormLayer
from qsweep.sweeps.models import Convolutional
from qsweep.sweeps.signals import signals_of
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.graph import IMAGES, ConvNetwork, Node
from qsweep.workers.models.stage import NormTensors, StageTensors
from qsweep.workers.quantizers.activations import TensorSignals, tensors_of

Read: TypeAlias = tuple[int, bool]
"""A tensor that a convolution reads: the node that puts it out, and whether it is pooled in between."""


class RoundedNetwork(ConvNetwork):
    """A network of which every tensor that a convolution reads, the images left out, has one step and its levels. They
    are called by the first convolution that reads it: `stage1.0.conv1.activation.step`."""

    def __init__(self, model: Convolutional, data: DataSet) -> None:
        super().__init__(model, data)
        layers = self.layout.layers
        self._names = {read: layers[readers[0]].name for read, readers in readers_of(self.nodes).items()}
        signals = [one for one in signals_of(layers, data.size) if one.layer in self._names.values()]
        self.layout = ConvLayout(layers, signals, TensorSignals)

    def views(self, tensors: Mapping[str, Tensor]) -> tuple[StageTensors | NormTensors, ...]:
        signals = tensors_of(self.layout, tensors)
        by_read = {read: signals[name] for read, name in self._names.items()}
        return tuple(
            view
            if isinstance(view, NormTensors)
            else replace(view, signal=by_read.get(read_of(node)), added=by_read.get(added_of(node)))
            for node, view in zip(self.nodes, super().views(tensors), strict=True)
        )

    def name_of(self, read: Read) -> str:
        """What the step and the levels of a tensor are called by."""
        return f"{self._names[read]}.activation"


def read_of(node: Node) -> Read:
    """The tensor that a layer reads."""
    return node.source, node.layer.pool is not None


def added_of(node: Node) -> Read:
    """The tensor that a layer adds; one that there is not, if it adds none."""
    return IMAGES if node.residual is None else node.residual, False


def readers_of(nodes: Sequence[Node]) -> dict[Read, list[int]]:
    """The convolutions that read each tensor, by their numbers; the images are none."""
    found: dict[Read, list[int]] = {}
    for number, node in enumerate(nodes):
        if not isinstance(node.layer, NormLayer) and node.source != IMAGES:
            found.setdefault(read_of(node), []).append(number)
    return found
