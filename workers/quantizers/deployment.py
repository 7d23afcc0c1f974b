"""The weights that M models compute with: quantized, or their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from sweeps.training import Training
from workers.models.layout import Layout
from workers.quantizers.lsq import SMALLEST_STEP, LsqWeights, Rounding


class Deployment:
    """The quantizers of the models in rows 0 to m−1 of parameters (M, P); full precision has none."""

    def __init__(self, trainings: Sequence[Training], layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
        self._layout = layout
        self._quantized: list[tuple[slice, LsqWeights]] = []
        self._plain: list[slice] = []
        for plain, group in groupby(enumerate(trainings), key=lambda item: item[1].quantizer is None):
            items = list(group)
            rows = slice(items[0][0], items[-1][0] + 1)
            if plain:
                self._plain.append(rows)
            else:
                quantizers = [one.quantizer for _, one in items if one.quantizer is not None]
                self._quantized.append((rows, LsqWeights(quantizers, layout.layers, device, dtype)))

    def buffer(self, parameters: Tensor) -> Tensor:
        """Where `deploy` writes: the parameters themselves if no model is quantized."""
        return torch.zeros_like(parameters) if self._quantized else parameters

    def deploy(self, parameters: Tensor, out: Tensor) -> list[Rounding]:
        """Write the weights that the forward pass uses to the first ω columns of `out`."""
        weights = slice(0, self._layout.weights)
        if self._quantized:
            for rows in self._plain:
                out[rows, weights] = parameters[rows, weights]
        return [
            quantizer.quantize(parameters[rows, weights], self._steps(parameters[rows]), out[rows, weights])
            for rows, quantizer in self._quantized
        ]

    def differentiate(self, roundings: Sequence[Rounding], slopes: Tensor) -> None:
        """Turn the gradient of the deployed weights, in `slopes` (M, P), into that of weights and steps."""
        weights = slice(0, self._layout.weights)
        for (rows, quantizer), rounding in zip(self._quantized, roundings, strict=True):
            quantizer.differentiate(rounding, slopes[rows, weights], self._steps(slopes[rows]))

    def restrain(self, parameters: Tensor) -> None:
        """Keep the step sizes positive after an optimizer's step."""
        for rows, _ in self._quantized:
            self._steps(parameters[rows]).clamp_(min=SMALLEST_STEP)

    def _steps(self, rows: Tensor) -> Tensor:
        return self._layout.steps.of(rows)
