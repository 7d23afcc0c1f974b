"""The model families a sweep may name, as geometry. Their forward passes stand in `workers.models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from sweeps.datasets import DataSet
from sweeps.layers import ConvLayer, Pool
from sweeps.settings import Rule, setting


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


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet for small images (He et al. 2016), as the paper trains it on CIFAR.

    A 3×3 stem with stride 1 and no pooling, then four stages of `width`, 2, 4 and 8 × `width` channels, of
    which all but the first begin with stride 2: of two 3×3 convolutions a block (`depth` 18 and 34), or of
    1×1, 3×3 and 1×1 with four times the channels at the end (`depth` 50). A linear head follows the mean over
    the pixels. Convolutions have no bias and are followed by BN. Where a block changes the shape, its input is
    added through a 1×1 convolution with BN: a shortcut, whose weights the paper's ω and norms leave out.
    """

    name: ClassVar[str] = "resnet"
    semantics: ClassVar[int] = 1
    usual_width: ClassVar[int] = 16
    """The paper's on CIFAR."""

    depth: int = setting(Rule(choices=(18, 34, 50)))
    width: int = setting(Rule(low=1, high=1024))

    @property
    def title(self) -> str:
        return f"ResNet-{self.depth}"

    @property
    def label(self) -> str:
        return f"resnet-{self.depth}x{self.width}"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the paper's network of this name."""
        return "" if self.width == self.usual_width else f"width {self.width}"

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass, a block's shortcut first; the head is the last."""
        stem = _conv("stem", data.channels, self.width, data.size, kernel=3)
        layers = [stem]
        for stage, blocks in enumerate(RESNET_BLOCKS[self.depth]):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers += self._block(f"stage{stage + 1}.{block}", layers[-1], self.width * 2**stage, stride)
        return (*layers, _head(layers[-1], data))

    def _block(self, name: str, before: ConvLayer, channels: int, stride: int) -> list[ConvLayer]:
        side = -(-before.side // stride)
        kernels = (1, 3, 1) if self.depth >= 50 else (3, 3)
        outputs = 4 * channels if self.depth >= 50 else channels
        layers, residual = [], before.name
        if stride > 1 or before.outputs != outputs:
            residual = f"{name}.shortcut"
            layers.append(_conv(residual, before.outputs, outputs, side, stride=stride, relu=False, counted=False))
        inputs, source = before.outputs, before.name
        strided = kernels.index(3)
        for index, kernel in enumerate(kernels):
            last = index == len(kernels) - 1
            layers.append(
                _conv(
                    f"{name}.conv{index + 1}",
                    inputs,
                    outputs if last else channels,
                    before.side if index < strided else side,
                    kernel=kernel,
                    stride=stride if index == strided else 1,
                    source=source if index == 0 else None,
                    residual=residual if last else None,
                )
            )
            inputs = channels
        return layers


RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage."""


@dataclass(frozen=True, kw_only=True)
class MobileNet:
    """MobileNet-V1 (Howard et al. 2017, arXiv 1704.04861) for small images.

    A 3×3 stem of `width` channels, then 13 pairs of a depthwise 3×3 and a 1×1 convolution, whose channels grow to
    2, 4, 8, 16 and 32 × `width`; a linear head follows the mean over the pixels. Convolutions have no bias and are
    followed by BN and ReLU. As usual for images of 32 pixels a side, the stem has stride 1 instead of 2: the other
    four strides of 2 stay, and 2×2 pixels are left for the mean.
    """

    name: ClassVar[str] = "mobilenet"
    title: ClassVar[str] = "MobileNet-V1"
    semantics: ClassVar[int] = 1
    usual_width: ClassVar[int] = 32

    width: int = setting(Rule(low=1, high=1024), default=32)

    @property
    def label(self) -> str:
        return f"mobilenet-{self.width}"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the usual network of this name."""
        return "" if self.width == self.usual_width else f"width {self.width}"

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass; the head is the last."""
        layers = [_conv("stem", data.channels, self.width, data.size, kernel=3)]
        for number, (growth, stride) in enumerate(MOBILENET_PAIRS):
            inputs, side = layers[-1].outputs, -(-layers[-1].side // stride)
            layers += [
                _conv(f"pair{number}.depthwise", inputs, inputs, side, kernel=3, stride=stride, depthwise=True),
                _conv(f"pair{number}.pointwise", inputs, growth * self.width, side),
            ]
        return (*layers, _head(layers[-1], data))


MOBILENET_PAIRS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
"""Outputs of each pair in widths of the stem, and its stride."""


@dataclass(frozen=True, kw_only=True)
class Vgg:
    """VGG with batch norm (Simonyan & Zisserman 2015, arXiv 1409.1556) for small images.

    Five stages of 3×3 convolutions of `width`, 2, 4, 8 and 8 × `width` channels, with a bias and followed by BN and
    ReLU, as in torchvision's `vgg19_bn` and its like; after each stage the maximum of 2×2 pixels is taken, as long
    as there are as many. As usual on CIFAR, one linear head takes the place of ImageNet's three fully connected
    layers: at 32 pixels a side one pixel is left for it; of a larger image it takes the mean.
    """

    name: ClassVar[str] = "vgg"
    semantics: ClassVar[int] = 1
    usual_width: ClassVar[int] = 64

    depth: int = setting(Rule(choices=(11, 13, 16, 19)))
    width: int = setting(Rule(low=1, high=1024), default=64)

    @property
    def title(self) -> str:
        return f"VGG-{self.depth}"

    @property
    def label(self) -> str:
        return f"vgg-{self.depth}x{self.width}"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the usual network of this name."""
        return "" if self.width == self.usual_width else f"width {self.width}"

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass; the head is the last."""
        layers: list[ConvLayer] = []
        inputs, side, pool = data.channels, data.size, None
        for stage, count in enumerate(VGG_CONVOLUTIONS[self.depth]):
            for number in range(count):
                outputs = self.width * min(2**stage, 8)
                name = f"stage{stage + 1}.conv{number + 1}"
                layers.append(_conv(name, inputs, outputs, side, kernel=3, bias=True, pool=pool))
                inputs, pool = outputs, None
            if side > 1:
                side, pool = side // 2, HALVED
        head = ConvLayer(
            name="head", inputs=inputs, outputs=data.classes, kernel=1, stride=1, padding=0, side=side,
            norm=False, relu=False, pool=pool,
        )  # fmt: skip
        return (*layers, head)


VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage."""
HALVED = Pool(kind="max", kernel=2, stride=2)


def _head(last: ConvLayer, data: DataSet) -> ConvLayer:
    """A linear layer on the mean over the pixels."""
    return ConvLayer(
        name="head", inputs=last.outputs, outputs=data.classes, kernel=1, stride=1, padding=0, side=1,
        norm=False, relu=False, pool=Pool(kind="mean", kernel=last.side, stride=last.side),
    )  # fmt: skip


def _conv(
    name: str,
    inputs: int,
    outputs: int,
    side: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    bias: bool = False,
    **more: Any,
) -> ConvLayer:
    """A convolution whose padding keeps the side at stride 1."""
    return ConvLayer(
        name=name,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        stride=stride,
        padding=kernel // 2,
        side=side,
        bias=bias,
        **more,
    )


Model: TypeAlias = NiN | ResNet | MobileNet | Vgg
MODELS: dict[str, type[NiN] | type[ResNet] | type[MobileNet] | type[Vgg]] = {
    family.name: family for family in (NiN, ResNet, MobileNet, Vgg)
}
