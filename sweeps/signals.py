"""The signals of a network: what its layers read, as far as it can be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qsweep.sweeps.layers import ConvLayer, Layer


class Place(StrEnum):
    """Where in a network a signal stands: it says which bit width it takes."""

    IMAGES = "images"
    """The images, which the first layer reads."""
    SECOND = "second"
    """The first layer's output, also through batch norm, whoever reads it."""
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
    after_gelu: bool = False
    """Whether it comes out of a GELU: hardly ever below 0, and never by much."""


def signals_of(layers: Sequence[Layer], size: int) -> tuple[Signal, ...]:
    """The signals of a convolutional network's `layers` on images with sides of `size` pixels, in the layers' order.
    What batch norm alone reads is none."""
    sources = _sources(layers)
    found = list[Signal]()
    for layer in layers:
        source = sources[layer.name]
        if not isinstance(layer, ConvLayer):
            continue
        side = size if source is None else source.side_after
        side = side if layer.pool is None else layer.pool.side(side)
        of_first = source is not None and (source if source.weights else sources[source.name]) is layers[0]
        place = Place.OUTER if layer.outer else Place.SECOND if of_first else Place.INNER
        found.append(
            Signal(
                layer=layer.name,
                features=layer.inputs * side**2,
                signed=source is None or not source.relu,
                linear=layer.linear,
                place=Place.IMAGES if source is None else place,
            )
        )
    return tuple(found)


def _sources(layers: Sequence[Layer]) -> dict[str, Layer | None]:
    """The layer whose output each one reads; None of the one that reads the images."""
    by_name = {layer.name: layer for layer in layers}
    before = dict(zip((layer.name for layer in layers), (None, *layers), strict=False))
    return {one.name: before[one.name] if one.source is None else by_name[one.source] for one in layers}
