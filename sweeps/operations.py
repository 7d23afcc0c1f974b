"""Bit operations of one forward pass, the measure of cost of mixed and low precision (SAQ, `ziplab/SAQ`)."""

from __future__ import annotations

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.signals import Place, signals_of
from qsweep.sweeps.training import Training

IMAGE_BITS = 8
"""Of a pixel: what the first layer reads where activations are quantized and images are not."""


def bit_operations(training: Training) -> float:
    """Bit operations (BOPs) of one image: Σ k²·(inputs/groups)·outputs·side²·b_w·b_a over the layers with weights.

    b_w and b_a are the bit widths of a layer's weights and of what it reads: 32 where they are not quantized; outer
    layers and signals take the outer widths. Pooling, batch norm and residuals count nothing.
    """
    outer = getattr(training.quantizer, "outer_bits", training.bits)
    layers = training.model.layers(training.data)
    read = _activation_bits(training)
    return sum(
        one.operations / 2 * (outer if one.outer else training.bits) * read[one.name]
        for one in layers
        if isinstance(one, ConvLayer)
    )


def _activation_bits(training: Training) -> dict[str, int]:
    """The bit width of what each layer with weights reads."""
    chosen, found = training.activation_quantizer, {}
    for signal in signals_of(training.model.layers(training.data), training.data.size):
        if chosen is None:
            found[signal.layer] = FULL_PRECISION
        elif signal.place is Place.IMAGES and not chosen.quantizes_images:
            found[signal.layer] = IMAGE_BITS
        else:
            found[signal.layer] = chosen.bits_of(signal)
    return found
