"""The model families a sweep may name, as geometry. Their forward passes stand in `workers.models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.layers import ConvLayer, Layer, NormLayer, Pool, with_outer_ends
from qsweep.sweeps.modules import Module
from qsweep.sweeps.settings import Rule, setting
from qsweep.sweeps.transformers import Swin, Vit


@dataclass(frozen=True, kw_only=True)
class NiN:
    """Network in Network as in Dziugaite et al. 2020 (`nitarshan/robust-generalization-measures`).

    `depth` blocks, each Conv3×3 stride 2 → Conv1×1 → Conv1×1, then a Conv1×1 head to the classes and a
    global average pool; every convolution has a bias and is followed by BN and ReLU. A block has
    `channels_per_width · width` channels. "NiN (4x10)" is depth 4, width 10.
    """

    name: ClassVar[str] = "nin"
    title: ClassVar[str] = "NiN"
    family: ClassVar[str] = "NiN"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True

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
        return with_outer_ends([*layers, head])


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet (He et al. 2016) for small images, as the paper trains it on CIFAR, or for large ones, as torchvision's.

    A stem, then four stages of `width`, 2, 4 and 8 × `width` channels, of which all but the first begin with
    stride 2: of two 3×3 convolutions a block (`depth` 18 and 34), or of 1×1, 3×3 and 1×1 with four times the
    channels at the end (`depth` 50). A linear head follows the mean over the pixels. Convolutions have no bias and
    are followed by BN. Where a block changes the shape, its input is added through a 1×1 convolution with BN: a
    shortcut. The `small` stem is a 3×3 convolution with stride 1, without pooling; the paper's ω and norms leave the
    shortcuts of such a network out. The `large` one is a 7×7 convolution with stride 2 before a 3×3 maximum with
    stride 2; then every weight counts, and convolutions are initialized He-normal by their outputs.
    """

    name: ClassVar[str] = "resnet"
    family: ClassVar[str] = "ResNet"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True
    usual_width: ClassVar[int] = 16
    """The paper's on CIFAR."""
    published_width: ClassVar[int] = 64

    depth: int = setting(Rule(choices=(18, 34, 50)))
    width: int = setting(Rule(low=1, high=1024))
    stem: str = setting(Rule(choices=("small", "large")), default="small", added_later=True)

    @property
    def title(self) -> str:
        return f"ResNet-{self.depth}"

    @property
    def label(self) -> str:
        return f"resnet-{self.depth}x{self.width}" + ("-large" if self.is_large else "")

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the paper's network of this name."""
        usual = self.published_width if self.is_large else self.usual_width
        return "" if self.width == usual else f"width {self.width}"

    @property
    def is_large(self) -> bool:
        return self.stem == "large"

    @property
    def published(self) -> str | None:
        """torchvision's name of this very network, if it has it."""
        return f"resnet{self.depth}" if self.is_large and self.width == self.published_width else None

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass, a block's shortcut first; the head is the last."""
        layers = [self._stem(data)]
        for stage, blocks in enumerate(RESNET_BLOCKS[self.depth]):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers += self._block(f"stage{stage + 1}.{block}", layers[-1], self.width * 2**stage, stride)
        return with_outer_ends([*layers, _head(layers[-1], data)])

    def _stem(self, data: DataSet) -> ConvLayer:
        if not self.is_large:
            return _conv("stem", data.channels, self.width, data.size, kernel=3)
        side, pool = -(-data.size // 2), Pool(kind="max", kernel=3, stride=2, padding=1)
        return _conv(
            "stem", data.channels, self.width, side, kernel=7, stride=2, pool_after=pool, init=self._init
        )  # fmt: skip

    @property
    def _init(self) -> str:
        return "fan-out" if self.is_large else "default"

    def _block(self, name: str, before: ConvLayer, channels: int, stride: int) -> list[ConvLayer]:
        side = -(-before.side_after // stride)
        kernels = (1, 3, 1) if self.depth >= 50 else (3, 3)
        outputs = 4 * channels if self.depth >= 50 else channels
        layers, residual = [], before.name
        if stride > 1 or before.outputs != outputs:
            residual = f"{name}.shortcut"
            layers.append(
                _conv(
                    residual,
                    before.outputs,
                    outputs,
                    side,
                    stride=stride,
                    relu=False,
                    counted=self.is_large,
                    init=self._init,
                )
            )
        inputs, source = before.outputs, before.name
        strided = kernels.index(3)
        for index, kernel in enumerate(kernels):
            last = index == len(kernels) - 1
            layers.append(
                _conv(
                    f"{name}.conv{index + 1}",
                    inputs,
                    outputs if last else channels,
                    before.side_after if index < strided else side,
                    kernel=kernel,
                    stride=stride if index == strided else 1,
                    source=source if index == 0 else None,
                    residual=residual if last else None,
                    init=self._init,
                )
            )
            inputs = channels
        return layers


RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage."""


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """The ResNets of He et al. 2016 for CIFAR: `depth` = 6n + 2, and with `preact` their pre-activation form.

    A 3×3 stem of `width` channels, then three stages of n blocks of two 3×3 convolutions, with `width`, 2 and 4 ×
    `width` channels, of which the last two begin with stride 2; a linear head follows the mean over the pixels.
    Convolutions have no bias and are initialized He-normal by their outputs.

    In the usual form (He et al. 2016a, arXiv 1512.03385; as pytorchcv's `resnet20_cifar100`) BN follows each
    convolution, and where a block changes the shape its input is added through a 1×1 convolution with BN. In the
    pre-activation form (He et al. 2016b, arXiv 1603.05027; as `ziplab/SAQ`) BN and ReLU stand before each convolution
    and before the mean: the first block of a stage adds what its first BN and ReLU give, the others their input, and
    the 1×1 convolution has no BN.
    """

    name: ClassVar[str] = "cifar-resnet"
    family: ClassVar[str] = "CIFAR ResNet"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True
    usual_width: ClassVar[int] = 16

    depth: int = setting(Rule(choices=(20, 32, 44, 56, 110)))
    width: int = setting(Rule(low=1, high=1024), default=16)
    preact: bool = setting(default=False)

    @property
    def title(self) -> str:
        return f"{'Pre' if self.preact else ''}ResNet-{self.depth}"

    @property
    def label(self) -> str:
        return f"{'pre' if self.preact else ''}resnet-{self.depth}x{self.width}-cifar"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the usual network of this name."""
        return "" if self.width == self.usual_width else f"width {self.width}"

    def layers(self, data: DataSet) -> tuple[Layer, ...]:
        """Every layer in the order of the forward pass, a block's shortcut first; the head is the last."""
        own = not self.preact
        layers: list[Layer] = [
            _conv("stem", data.channels, self.width, data.size, kernel=3, norm=own, relu=own, init="fan-out")
        ]
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                layers += self._block(
                    f"stage{stage + 1}.{block}", layers[-1], self.width * 2**stage, 2 if stage and not block else 1,
                    first=not block,
                )  # fmt: skip
        last = layers[-1]
        if self.preact:
            last = NormLayer(name="norm", outputs=last.outputs, side=last.side)
            layers.append(last)
        return with_outer_ends([*layers, _head(last, data)])

    def _block(self, name: str, before: Layer, channels: int, stride: int, *, first: bool) -> list[Layer]:
        own, side = not self.preact, -(-before.side // stride)
        layers: list[Layer] = []
        read: Layer = before
        if self.preact:
            read = NormLayer(name=f"{name}.norm", outputs=before.outputs, side=before.side)
            layers.append(read)
        residual = read.name if first else before.name
        if stride > 1 or before.outputs != channels:
            residual = f"{name}.shortcut"
            layers.append(
                _conv(
                    residual, before.outputs, channels, side,
                    stride=stride, source=read.name, norm=own, relu=False, init="fan-out",
                )
            )  # fmt: skip
        return [
            *layers,
            _conv(
                f"{name}.conv1", before.outputs, channels, side,
                kernel=3, stride=stride, source=read.name, init="fan-out",
            ),
            _conv(
                f"{name}.conv2", channels, channels, side,
                kernel=3, residual=residual, norm=own, relu=own, init="fan-out",
            ),
        ]  # fmt: skip


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
    family: ClassVar[str] = "MobileNet-V1"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True
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
        return with_outer_ends([*layers, _head(layers[-1], data)])


MOBILENET_PAIRS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
"""Outputs of each pair in widths of the stem, and its stride."""


@dataclass(frozen=True, kw_only=True)
class MobileNetV2:
    """MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381) for large images, as torchvision has it, or for small ones.

    A 3×3 stem with stride 2, then inverted residuals: a 1×1 convolution to six times the channels (none in the
    first), a depthwise 3×3, a 1×1 back; the input is added where the shape stays. A 1×1 convolution to 1,280
    channels and a linear head on the mean follow. Convolutions have no bias and are followed by BN and, except for
    the one back, ReLU up to 6. `width` channels in the stem scale all others, rounded to multiples of 8. The head's
    dropout of torchvision's training is left out: it takes no part in evaluation.

    The `small` stem is that of SAQ's code on CIFAR (`ziplab/SAQ`, `mobilenetv2_cifar.py`): stem and second group have
    stride 1, ReLU has no ceiling, the first residual has its 1×1 convolution too, and where the channels change at
    stride 1 the input is added through a 1×1 convolution with BN.
    """

    name: ClassVar[str] = "mobilenet-v2"
    title: ClassVar[str] = "MobileNet-V2"
    family: ClassVar[str] = "MobileNet-V2"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True
    usual_width: ClassVar[int] = 32

    width: int = setting(Rule(low=1, high=1024), default=32)
    stem: str = setting(Rule(choices=("small", "large")), default="large", added_later=True)

    @property
    def label(self) -> str:
        return f"mobilenet-v2-{self.width}" + ("" if self.is_large else "-small")

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the usual network of this name."""
        return "" if self.width == self.usual_width else f"width {self.width}"

    @property
    def is_large(self) -> bool:
        return self.stem == "large"

    @property
    def published(self) -> str | None:
        """torchvision's name of this very network, if it has it."""
        return "mobilenet_v2" if self.is_large and self.width == self.usual_width else None

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """Every convolution in the order of the forward pass, a block's shortcut first; the head is the last."""
        stride = 2 if self.is_large else 1
        ceiling = 6.0 if self.is_large else None
        layers = [
            _conv(
                "stem", data.channels, self._scaled(32), -(-data.size // stride),
                kernel=3, stride=stride, init="fan-out", ceiling=ceiling,
            )
        ]  # fmt: skip
        number = 0
        for group, (growth, outputs, count, first_stride) in enumerate(INVERTED_RESIDUALS):
            for repeat in range(count):
                number += 1
                stride = 1 if repeat or (group == 1 and not self.is_large) else first_stride
                name, before = f"block{number}", layers[-1]
                layers += _inverted(name, before, growth, self._scaled(outputs), stride, large=self.is_large)
        wide = 1280 * max(self.width, self.usual_width) / self.usual_width
        layers.append(
            _conv("last", layers[-1].outputs, _rounded(wide), layers[-1].side, init="fan-out", ceiling=ceiling)
        )
        return with_outer_ends([*layers, _head(layers[-1], data, init="small")])

    def _scaled(self, channels: int) -> int:
        return _rounded(channels * self.width / self.usual_width)


INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Growth inside, outputs, how many, and the first one's stride."""


def _rounded(channels: float) -> int:
    """To a multiple of 8, at least 8, and not below nine tenths, as torchvision rounds."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _inverted(name: str, before: ConvLayer, growth: int, outputs: int, stride: int, *, large: bool) -> list[ConvLayer]:
    inside, side = before.outputs * growth, -(-before.side // stride)
    more: dict[str, Any] = {"init": "fan-out", "ceiling": 6.0 if large else None}
    layers, residual = [], before.name if stride == 1 and before.outputs == outputs else None
    if stride == 1 and residual is None and not large:
        residual = f"{name}.shortcut"
        layers.append(_conv(residual, before.outputs, outputs, side, relu=False, init="fan-out"))
    source = before.name if layers else None
    if growth > 1 or not large:
        layers.append(_conv(f"{name}.expand", before.outputs, inside, before.side, source=source, **more))
    layers.append(_conv(f"{name}.depthwise", inside, inside, side, kernel=3, stride=stride, depthwise=True, **more))
    project = _conv(f"{name}.project", inside, outputs, side, relu=False, residual=residual, init="fan-out")
    return [*layers, project]


@dataclass(frozen=True, kw_only=True)
class Vgg:
    """VGG with batch norm (Simonyan & Zisserman 2015, arXiv 1409.1556) for small images.

    Five stages of 3×3 convolutions of `width`, 2, 4, 8 and 8 × `width` channels, with a bias and followed by BN and
    ReLU, as in torchvision's `vgg19_bn` and its like; after each stage the maximum of 2×2 pixels is taken, as long
    as there are as many. As usual on CIFAR, one linear head takes the place of ImageNet's three fully connected
    layers: at 32 pixels a side one pixel is left for it; of a larger image it takes the mean.
    """

    name: ClassVar[str] = "vgg"
    family: ClassVar[str] = "VGG"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True
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
            norm=False, relu=False, pool=pool, linear=True,
        )  # fmt: skip
        return with_outer_ends([*layers, head])


VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage."""
HALVED = Pool(kind="max", kernel=2, stride=2)


def _head(last: Layer, data: DataSet, *, init: str = "default") -> ConvLayer:
    """A linear layer on the mean over the pixels."""
    return ConvLayer(
        name="head", inputs=last.outputs, outputs=data.classes, kernel=1, stride=1, padding=0, side=1,
        norm=False, relu=False, pool=Pool(kind="mean", kernel=last.side, stride=last.side), init=init,
        linear=True,
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


Convolutional: TypeAlias = NiN | ResNet | MobileNet | MobileNetV2 | Vgg | CifarResNet
Model: TypeAlias = Convolutional | Vit | Swin | Module


def published_name(model: Model) -> str | None:
    """torchvision's name of this very network, if it has one trained on ImageNet."""
    return model.published if isinstance(model, ResNet | MobileNetV2 | Swin) else None


def is_transformer(model: Model | None) -> bool:
    """Whether a network is made of matrix products and layer norms alone."""
    return isinstance(model, Vit | Swin)


def has_batch_norm(model: Model) -> bool:
    """Whether a network normalizes by batch norm, which can be folded into its weights."""
    return not is_transformer(model)
