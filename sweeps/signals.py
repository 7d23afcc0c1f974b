"""The signals of a network: what its layers read, as far as it can be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qsweep.sweeps.layers import ConvLayer


class Place(StrEnum):
    """Where in a network a signal stands: it says which bit width it takes."""

    IMAGES = "images"
    """The images, which the first layer reads."""
    SECOND = "second"
    """The first layer's output, whoever reads it."""
    INNER = "inner"
    OUTER = "outer"
    """What the last layer reads, or any other that is `outer`."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What one layer reads, as it reads it: pooled, where the layer pools first."""

    layer: str
    """The layer that reads it."""
    features: int
    """Numbers of one image: N of the step size's gradient scale."""
    signed: bool
    """Whether it may be negative: it is not where it comes out of a ReLU."""
    linear: bool
    """Whether the layer that reads it is a linear one."""
    place: Place


def signals_of(layers: Sequence[ConvLayer], size: int) -> tuple[Signal, ...]:
    """The signals of convolutional `layers` on images with sides of `size` pixels, in the layers' order."""
    outputs = {layer.name: layer for layer in layers}
    found, before = list[Signal](), None
    for layer in layers:
        source = before if layer.source is None else outputs[layer.source]
        side = size if source is None else source.side_after
        side = side if layer.pool is None else layer.pool.side(side)
        place = Place.OUTER if layer.outer else Place.SECOND if source is layers[0] else Place.INNER
        found.append(
            Signal(
                layer=layer.name,
                features=layer.inputs * side**2,
                signed=source is None or not source.relu,
                linear=layer.linear,
                place=Place.IMAGES if source is None else place,
            )
        )
        before = layer
    return tuple(found)
