"""One layer of a network: its own geometry, and how it hangs together with the other layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, TypeVar


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pooling of images: the `max` or the `mean` of each window."""

    kind: str
    kernel: int
    stride: int
    padding: int = 0

    def side(self, before: int) -> int:
        """Height and width after it."""
        return (before + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """One convolution, or a linear layer as a 1×1 convolution of one pixel, with what stands around it.

    In this order: the input is pooled, convolved, normalized by batch norm, a residual is added, ReLU is taken, and
    the output is pooled. A network is a list of layers of which each reads one, and may add another, that stands
    before it.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    side: int
    """Height and width of the convolution's output, in pixels."""
    bias: bool = True
    norm: bool = True
    relu: bool = True
    ceiling: float | None = None
    """What ReLU lets through at most: 6 of ReLU6."""
    depthwise: bool = False
    """Each output reads one input channel, its own, instead of all."""
    pool: Pool | None = None
    """How what it reads is pooled before."""
    pool_after: Pool | None = None
    """How its output is pooled before anyone reads it."""
    source: str | None = None
    """The layer whose output it reads; None is the one before it in the list, or the images."""
    residual: str | None = None
    """The layer whose output is added before ReLU."""
    init: str = "default"
    """How it is initialized: as PyTorch's modules are (`default`), He-normal by its outputs (`fan-out`), or normal
    with a deviation of 0.01 and no bias (`small`)."""
    counted: bool = True
    """Whether its weights count in ω and in the norms of the flatness measures."""
    outer: bool = False
    """Whether it takes the outer bit width: the first and the last layer of a network do."""
    linear: bool = False
    """Whether it is a linear layer."""

    @property
    def side_after(self) -> int:
        """Height and width of the output that others read."""
        return self.side if self.pool_after is None else self.pool_after.side(self.side)

    @property
    def reads(self) -> int:
        """Input channels that each output reads."""
        return 1 if self.depthwise else self.inputs

    @property
    def weights(self) -> int:
        """Number of weights, without the bias: N of the step size's gradient scale."""
        return self.outputs * self.reads * self.kernel**2

    @property
    def operations(self) -> int:
        """Multiplications and additions of one forward pass over one image."""
        return 2 * self.weights * self.side**2

    @property
    def activation(self) -> int:
        """Numbers of the convolution's output for one image."""
        return self.outputs * self.side**2

    @property
    def norms_single_pixels(self) -> bool:
        """Whether batch norm sees one pixel an image, so that it can't normalize a single image."""
        return self.norm and self.side == 1

    @property
    def initial_square(self) -> float:
        """What the sum of the squares of its initial weights comes to, by the deviation of how they are drawn."""
        if self.init == "small":
            return self.weights * 0.01**2
        return 2.0 * self.reads if self.init == "fan-out" else self.outputs / 3


@dataclass(frozen=True, kw_only=True)
class NormLayer:
    """Batch norm and ReLU of what another layer puts out: what a block of a pre-activation network begins with.

    It has no weights, so that no quantizer, ω or norm knows of it.
    """

    weights: ClassVar[int] = 0
    operations: ClassVar[int] = 0
    initial_square: ClassVar[float] = 0.0
    norm: ClassVar[bool] = True
    bias: ClassVar[bool] = False
    counted: ClassVar[bool] = True
    pool: ClassVar[Pool | None] = None
    pool_after: ClassVar[Pool | None] = None
    residual: ClassVar[str | None] = None

    name: str
    outputs: int
    side: int
    """Height and width of the images, in pixels."""
    source: str | None = None
    """The layer whose output it reads; None is the one before it in the list."""
    relu: bool = True
    ceiling: float | None = None

    @property
    def side_after(self) -> int:
        """Height and width of the output that others read."""
        return self.side

    @property
    def activation(self) -> int:
        """Numbers of its output for one image."""
        return self.outputs * self.side**2

    @property
    def norms_single_pixels(self) -> bool:
        """Whether it sees one pixel an image, so that it can't normalize a single image."""
        return self.side == 1


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """One matrix of a transformer, which is applied to each of an image's `tokens`. There is no batch norm."""

    norm: ClassVar[bool] = False

    name: str
    inputs: int
    outputs: int
    tokens: int
    bias: bool = True
    outer: bool = False
    """Whether it takes the outer bit width."""
    attended: int = 0
    """Of the layer behind an attention: how many tokens each one attends to, in each of the `heads`."""
    heads: int = 1
    init: str = "transformer"
    """How it is initialized: normal with a deviation of 0.02 and no bias (`transformer`), or as PyTorch's modules are
    (`default`)."""
    counted: bool = True

    @property
    def weights(self) -> int:
        """Number of weights, without the bias: N of the step size's gradient scale."""
        return self.outputs * self.inputs

    @property
    def attention(self) -> int:
        """Multiplications of the attention before it: queries with keys, and what comes of that with values."""
        return 2 * self.tokens * self.attended * self.inputs

    @property
    def operations(self) -> int:
        """Multiplications and additions of one forward pass over one image, with those of the attention before it."""
        return 2 * (self.tokens * self.weights + self.attention)

    @property
    def activation(self) -> int:
        """Numbers that it makes of one image, and the attention before it."""
        return self.tokens * (self.outputs + self.heads * self.attended)

    @property
    def norms_single_pixels(self) -> bool:
        """There is no batch norm."""
        return False

    @property
    def initial_square(self) -> float:
        """What the sum of the squares of its initial weights comes to, by the deviation of how they are drawn."""
        return self.outputs / 3 if self.init == "default" else self.weights * 0.02**2


Layer: TypeAlias = ConvLayer | NormLayer
"""A convolutional network is a list of these."""


AnyLayer = TypeVar("AnyLayer", bound=Layer)


def with_outer_ends(layers: Sequence[AnyLayer]) -> tuple[AnyLayer, ...]:
    """The same layers, of which the first and the last, which have weights, are outer ones."""
    ends: list[Any] = [replace(one, outer=True) for one in (layers[0], layers[-1]) if isinstance(one, ConvLayer)]
    return ends[0], *layers[1:-1], ends[1]
