"""Bit operations of one forward pass, the measure of cost of mixed and low precision (SAQ, `ziplab/SAQ`)."""

from __future__ import annotations

from qsweep.sweeps.layers import LinearLayer, NormLayer
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.signals import Place, signals_of
from qsweep.sweeps.training import Training
from qsweep.sweeps.transformers import Swin, Vit

IMAGE_BITS = 8
"""Of a pixel: what the first layer reads where activations are quantized and images are not."""


def bit_operations(training: Training) -> float:
    """Bit operations (BOPs) of one image: Σ k²·(inputs/groups)·outputs·side²·b_w·b_a over the layers with weights.

    b_w and b_a are the bit widths of a layer's weights and of what it reads: 32 where they are not quantized; outer
    layers and signals take the outer widths. The products of an attention count b_a². Pooling, norms and residuals
    count nothing.
    """
    outer = getattr(training.quantizer, "outer_bits", training.bits)
    read, found = _activation_bits(training), 0.0
    for one in training.model.layers(training.data):
        if isinstance(one, NormLayer):
            continue
        weight_bits = outer if one.outer else training.bits
        products = one.operations / 2
        if isinstance(one, LinearLayer) and one.attended:
            products -= one.attention
            found += one.attention * read[one.name] ** 2
        found += products * weight_bits * read[one.name]
    return found


def _activation_bits(training: Training) -> dict[str, int]:
    """The bit width of what each layer with weights reads."""
    chosen, model, data = training.activation_quantizer, training.model, training.data
    found = {one.name: FULL_PRECISION for one in model.layers(data)}
    for signal in model.signals(data) if isinstance(model, Vit | Swin) else signals_of(model.layers(data), data.size):
        if chosen is None:
            continue
        if signal.place is Place.IMAGES and not chosen.quantizes_images:
            found[signal.layer] = IMAGE_BITS
        else:
            found[signal.layer] = chosen.bits_of(signal)
    for name in found:
        block, _, part = name.rpartition(".")
        if part in ("query", "key", "value"):
            found[name] = found.get(f"{block}.attention", FULL_PRECISION)
    return found
