"""The model families a sweep may name, as geometry. Their forward passes stand in `workers.models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from sweeps.datasets import DataSet
from sweeps.settings import Rule, setting


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """One convolution: its name, its weight's shape and the side of its output."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    side: int
    """Height and width of the output, in pixels."""

    @property
    def weights(self) -> int:
        """Number of weights, without the bias: N of the step size's gradient scale."""
        return self.outputs * self.inputs * self.kernel**2

    @property
    def operations(self) -> int:
        """Multiplications and additions of one forward pass over one image."""
        return 2 * self.weights * self.side**2


@dataclass(frozen=True, kw_only=True)
class NiN:
    """Network in Network as in Dziugaite et al. 2020 (`nitarshan/robust-generalization-measures`).

    `depth` blocks, each Conv3×3 stride 2 → Conv1×1 → Conv1×1, then a Conv1×1 head to the classes and a
    global average pool; every convolution has a bias and is followed by BN and ReLU. A block has
    `channels_per_width · width` channels. "NiN (4x10)" is depth 4, width 10.
    """

    name: ClassVar[str] = "nin"
    title: ClassVar[str] = "NiN"
    semantics: ClassVar[int] = 1

    width: int = setting(Rule(low=1, high=1024))
    depth: int = setting(Rule(low=1, high=16))
    channels_per_width: int = setting(Rule(low=1, high=1024), default=25)

    @property
    def label(self) -> str:
        return f"nin-{self.depth}x{self.width}"

    @property
    def shape(self) -> str:
        """What the paper's tables call this one of its family: `4x10`."""
        return f"{self.depth}x{self.width}"

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass; the first and the last are the outer ones."""
        channels = self.channels_per_width * self.width
        layers = []
        inputs, side = data.channels, data.size
        for block in range(self.depth):
            side = (side + 1) // 2
            for index, (kernel, stride, padding) in enumerate(((3, 2, 1), (1, 1, 0), (1, 1, 0))):
                layers.append(
                    ConvLayer(
                        name=f"block{block}.conv{index}",
                        inputs=inputs,
                        outputs=channels,
                        kernel=kernel,
                        stride=stride,
                        padding=padding,
                        side=side,
                    )
                )
                inputs = channels
        head = ConvLayer(name="head", inputs=inputs, outputs=data.classes, kernel=1, stride=1, padding=0, side=side)
        return (*layers, head)


Model: TypeAlias = NiN
MODELS: dict[str, type[Model]] = {family.name: family for family in (NiN,)}
