"""The quantized model that SADAG looks at: weights to the nearest level, activations by scales found on some images.

Bits as in Genie (`reconstruct.py`): the first layer and the last have 8-bit weights, the images are not quantized, and
what the second and the last convolution read has 8 bits. A tensor that a convolution reads has one quantizer, for
everything that reads or adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import NormLayer
from qsweep.sweeps.training import Training
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.convolved import rescale, thinned
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.rounded import Read, added_of, read_of, readers_of
from qsweep.workers.models.stage import NormTensors, activate
from qsweep.workers.models.window import Window
from qsweep.workers.zero_shot.scales import (
    ActivationScale,
    WeightGrid,
    activation_scale,
    round_activations,
    weight_grid,
)
from qsweep.workers.zero_shot.swing import Shift, swung

OUTER_BITS = 8
CALIBRATED_ON = 32
"""Images that the scales of activations are found on: Genie's."""


@dataclass(frozen=True, kw_only=True)
class StudentStage:
    """A rounded convolution with its bias and batch norm (each (C)), and the quantizers of what it reads and adds."""

    signal: ClassVar[None] = None
    added: ClassVar[None] = None
    """The walk quantizes nothing: the step does, the skips too."""

    weight: Tensor
    bias: Tensor
    norm: tuple[Tensor, Tensor] | None
    reads: Read | None
    adds: Read | None


class Student:
    """One model, quantized to nearest. Its activations have no scales before `calibrate` or `restore`."""

    def __init__(
        self,
        training: Training,
        model: Mapping[str, Tensor],
        *,
        weight_bits: int,
        activation_bits: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        network = NETWORKS[training.model.name](training.model, training.data)
        assert isinstance(network, ConvNetwork), "a convolutional network was asked for before"
        self.network = network
        layout = network.layout
        parameters, statistics = (row[None].to(device, dtype) for row in layout.packed(model))
        self.bits = _bits(network, activation_bits)
        convolutions = [place for place, node in enumerate(network.nodes) if not isinstance(node.layer, NormLayer)]
        outer = {convolutions[0], convolutions[-1]}
        self.stages: list[Any] = []
        self.float_stages: list[Any] = []
        self.grids: dict[int, WeightGrid] = {}
        """Of each convolution, by its number."""
        for place, view in enumerate(network.views(layout.tensors(parameters, parameters, statistics))):
            if isinstance(view, NormTensors):
                scale, shift = view.scale_and_shift()
                self.stages.append((scale[0], shift[0]))
                self.float_stages.append((scale[0], shift[0]))
                continue
            node = network.nodes[place]
            read, added = read_of(node), added_of(node)
            norm = None if view.norm is None else view.norm.scale_and_shift()
            stage = StudentStage(
                weight=view.weight[0].contiguous(memory_format=torch.channels_last),
                bias=view.bias[0],
                norm=None if norm is None else (norm[0][0], norm[1][0]),
                reads=read if read in self.bits else None,
                adds=added if added in self.bits else None,
            )
            grid = self.grids[place] = weight_grid(view.weight[0], OUTER_BITS if place in outer else weight_bits)
            self.float_stages.append(replace(stage, reads=None, adds=None))
            self.stages.append(with_rows(stage, grid.values(grid.codes(view.weight[0]))))
        self.scales: dict[Read, ActivationScale] = {}

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Find the scale of every tensor on these images, each on what comes of those before it in the graph."""
        self.scales = {}

        def found(values: Tensor, name: Read) -> Tensor:
            self.scales[name] = activation_scale(values, self.bits[name])
            return round_activations(values, self.scales[name])

        self._walk(images, None, found)

    def see(self, images: Tensor, shifts: Sequence[Shift] | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and what the last layer reads (B, F), the mean over its pixels."""
        return self._walk(images, shifts, self.rounded)

    def rounded(self, values: Tensor, name: Read) -> Tensor:
        """Activations by the scale of their tensor."""
        return round_activations(values, self.scales[name])

    def _walk(
        self, images: Tensor, shifts: Sequence[Shift] | None, quantize: Callable[[Tensor, Read], Tensor]
    ) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = []

        def look(stage: StudentStage, read: Tensor) -> None:
            if stage is self.stages[-1]:
                features.append(read.mean((2, 3)))

        images = images.contiguous(memory_format=torch.channels_last)
        step = step_with(quantize, shifts, look)
        return self.network.walk(images, self.stages, step, pool_planes, rescale), features[0]

    def state(self) -> list[tuple[int, bool, Tensor, int, int]]:
        """The scales, as `restore` takes them."""
        return [(*name, one.step.cpu(), one.low, one.high) for name, one in self.scales.items()]

    def restore(self, state: Sequence[tuple[int, bool, Tensor, int, int]], device: torch.device) -> None:
        self.scales = {
            (node, pooled): ActivationScale(step=step.to(device), low=low, high=high)
            for node, pooled, step, low, high in state
        }


Step: TypeAlias = Callable[[Tensor, Window, StudentStage, Tensor | None], Tensor]


def with_rows(stage: StudentStage, rows: Tensor) -> StudentStage:
    """The stage with another weight, given as (C, weights of a channel)."""
    weight = rows.view_as(stage.weight).contiguous(memory_format=torch.channels_last)
    return replace(stage, weight=weight)


def step_with(
    quantize: Callable[[Tensor, Read], Tensor],
    shifts: Sequence[Shift] | None = None,
    look: Callable[[StudentStage, Tensor], None] = lambda stage, read: None,
) -> Step:
    """What computes the stages of one pass over images, in their order. `quantize` is asked once for each tensor that
    is quantized; strided convolutions swing by these shifts; `look` is told what each stage reads."""
    left = iter(shifts or ())
    rounded: dict[Read, Tensor] = {}

    def quantized(values: Tensor, name: Read | None) -> Tensor:
        if name is None:
            return values
        if name not in rounded:
            rounded[name] = quantize(values, name)
        return rounded[name]

    def step(read: Tensor, window: Window, stage: StudentStage, residual: Tensor | None) -> Tensor:
        layer = window.layer
        read = quantized(read, stage.reads)
        look(stage, read)
        if layer.stride != 1 and shifts is not None:
            read = swung(read, next(left))
        read, stride = thinned(read, layer)
        groups = layer.inputs if layer.depthwise else 1
        output = F.conv2d(read, stage.weight, stage.bias, stride=stride, padding=layer.padding, groups=groups)
        if stage.norm is not None:
            scale, shift = (one[:, None, None] for one in stage.norm)
            output = output * scale + shift
        if residual is not None:
            output = output + quantized(residual, stage.adds)
        return activate(output, layer)

    return step


def _bits(network: ConvNetwork, activation_bits: int) -> dict[Read, int]:
    """The bits of every tensor that a convolution reads, the images left out."""
    convolutions = [place for place, node in enumerate(network.nodes) if not isinstance(node.layer, NormLayer)]
    outer = {convolutions[1], convolutions[-1]}
    readers = readers_of(network.nodes).items()
    return {read: activation_bits if outer.isdisjoint(numbers) else OUTER_BITS for read, numbers in readers}
