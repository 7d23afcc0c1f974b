"""Bit operations are those of SAQ's README, exactly."""

from __future__ import annotations

from typing import Any

import pytest

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.operations import bit_operations
from qsweep.sweeps.training import Training

RECIPE: dict[str, Any] = {
    "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4, "epochs": 1, "batch_size": 128,
}  # fmt: skip
SMALL: dict[str, Any] = {"data": "cifar100", "model": "cifar-resnet", "depth": 20, "preact": True}
MOBILE: dict[str, Any] = {"data": "cifar100", "model": "mobilenet-v2", "stem": "small"}
LARGE: dict[str, Any] = {"data": "imagenet", "model": "resnet", "depth": 18, "width": 64, "stem": "large"}


def quantized(bits: int, **network: Any) -> Training:
    return Training.from_settings({**RECIPE, "bits": bits, "activation_bits": bits, **network})


@pytest.mark.parametrize(
    ("network", "bits", "millions", "shown"),
    [
        (SMALL, 4, 674.6, 1), (SMALL, 3, 392.1, 1), (MOBILE, 4, 1508.9, 1), (MOBILE, 3, 877.1, 1),
        (LARGE, 4, 34_700, -2), (LARGE, 2, 14_400, -2),
    ],
)  # fmt: skip
def test_bit_operations_are_the_published_ones(network: dict[str, Any], bits: int, millions: float, shown: int) -> None:
    assert round(bit_operations(quantized(bits, **network)) / 1e6, shown) == millions


def test_what_is_not_quantized_has_32_bits() -> None:
    one = Training.from_settings({**RECIPE, "bits": 32, **SMALL})
    multiply_adds = sum(layer.operations for layer in one.model.layers(one.data)) / 2
    assert bit_operations(one) == multiply_adds * 32 * 32
    head = one.model.layers(one.data)[-1].operations / 2
    stem = one.model.layers(one.data)[0].operations / 2
    four = Training.from_settings({**RECIPE, "bits": 4, **SMALL})
    assert bit_operations(four) == ((multiply_adds - head - stem) * 4 + (head + stem) * 8) * 32


@pytest.mark.parametrize("quantizer", ["lsq", "liq"])
def test_images_that_are_quantized_count_with_their_own_bits(quantizer: str) -> None:
    stem = Training.from_settings({**RECIPE, "bits": 4, **SMALL}).model.layers(DATASETS["cifar100"])[0].operations / 2
    names = {"activation_quantizer": quantizer, "outer_activation_bits": 6}
    images = quantized(4, **SMALL, **names, outer_activations="lsq")
    others = quantized(4, **SMALL, **names)
    assert bit_operations(others) - bit_operations(images) == stem * 8 * (8 - 6)
