"""The weights that M models compute with: quantized, or their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers import QUANTIZATIONS
from qsweep.workers.quantizers.quantizer import WeightQuantizer


class Deployment:
    """The quantizers of the models in rows 0 to m−1 of parameters (M, P); full precision has none."""

    def __init__(self, trainings: Sequence[Training], layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
        self._weights = slice(0, layout.weights)
        self._epochs = trainings[0].recipe.epochs
        self._quantized: list[tuple[slice, WeightQuantizer]] = []
        self._plain: list[slice] = []
        for name, group in groupby(enumerate(trainings), key=lambda item: quantization(item[1])):
            items = list(group)
            rows = slice(items[0][0], items[-1][0] + 1)
            if name is None:
                self._plain.append(rows)
            else:
                quantizers = [one.quantizer for _, one in items if one.quantizer is not None]
                self._quantized.append((rows, QUANTIZATIONS[name](quantizers, layout, device, dtype)))

    def buffer(self, parameters: Tensor) -> Tensor:
        """Where `deploy` writes: the parameters themselves if no model is quantized."""
        return torch.zeros_like(parameters) if self._quantized else parameters

    def open(self, epoch: int) -> None:
        """Begin an epoch (from 0)."""
        for _, quantizer in self._quantized:
            quantizer.open(epoch, self._epochs)

    def deploy(self, parameters: Tensor, out: Tensor) -> list[Any]:
        """Write the weights that the forward pass uses to the first ω columns of `out`."""
        if self._quantized:
            for rows in self._plain:
                out[rows, self._weights] = parameters[rows, self._weights]
        return [quantizer.quantize(parameters[rows], out[rows]) for rows, quantizer in self._quantized]

    def differentiate(self, parameters: Tensor, roundings: Sequence[Any], gradients: Tensor) -> None:
        """Turn the gradient of the deployed weights, in `gradients` (M, P), into that of weights and steps.

        `parameters` are those that were deployed, and `roundings` what that returned.
        """
        for (rows, quantizer), rounding in zip(self._quantized, roundings, strict=True):
            quantizer.differentiate(rounding, gradients[rows])

    def restrain(self, parameters: Tensor) -> None:
        """Keep the step sizes positive after an optimizer's step."""
        for rows, quantizer in self._quantized:
            quantizer.restrain(parameters[rows])


def quantization(training: Training) -> str | None:
    """The name of a training's quantizer; None in full precision."""
    return None if training.quantizer is None else training.quantizer.name


def quantizer_of(
    training: Training, layout: Layout, device: torch.device, dtype: torch.dtype
) -> WeightQuantizer | None:
    """The quantizer of any number of copies of one trained model; None in full precision."""
    if training.quantizer is None:
        return None
    kind: type[WeightQuantizer] = QUANTIZATIONS[training.quantizer.name]
    return kind([training.quantizer], layout, device, dtype, divides=True)


def deployed_rows(
    training: Training, model: Mapping[str, Tensor], layout: Layout, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Parameters (P), their weights rounded where the model is quantized, and statistics (S) of a kept model."""
    parameters, statistics = (row.to(dtype) for row in layout.packed(model))
    quantizer = quantizer_of(training, layout, parameters.device, dtype)
    if quantizer is not None:
        quantizer.round_copies(parameters[None])
    return parameters, statistics
