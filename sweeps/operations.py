"""Bit operations of one forward pass, the measure of cost of mixed and low precision (SAQ, `ziplab/SAQ`)."""

from __future__ import annotations

from collections.abc import Sequence

from qsweep.sweeps.layers import Layer
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.training import Training

IMAGE_BITS = 8
"""Of a pixel: what the first layer reads where activations are quantized and images are not."""


def bit_operations(training: Training) -> float:
    """Bit operations (BOPs) of one image: Σ k²·(inputs/groups)·outputs·side²·b_w·b_a over the layers with weights.

    b_w and b_a are the bit widths of a layer's weights and of what it reads: 32 where they are not quantized; the
    first and the last layer take the outer widths. Pooling, batch norm and residuals count nothing.
    """
    layers = [one for one in training.model.layers(training.data) if one.weights]
    return sum(
        one.operations / 2 * weight_bits * activation_bits
        for one, weight_bits, activation_bits in zip(
            layers, _weight_bits(training, layers), _activation_bits(training, layers), strict=True
        )
    )


def _weight_bits(training: Training, layers: Sequence[Layer]) -> list[int]:
    inner = training.bits
    outer = getattr(training.quantizer, "outer_bits", inner)
    return [outer, *[inner] * (len(layers) - 2), outer]


def _activation_bits(training: Training, layers: Sequence[Layer]) -> list[int]:
    chosen = training.activation_quantizer
    if chosen is None:
        return [FULL_PRECISION] * len(layers)
    inner = chosen.activation_bits
    outer = getattr(chosen, "outer_activation_bits", inner)
    return [IMAGE_BITS, *[inner] * (len(layers) - 2), outer]
