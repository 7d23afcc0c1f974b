"""The weights that M models compute with: quantized, or their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.lsq import SMALLEST_STEP, CompiledLsq, LsqWeights, Rounding


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

    def differentiate(self, parameters: Tensor, roundings: Sequence[Rounding], slopes: Tensor) -> None:
        """Turn the gradient of the deployed weights, in `slopes` (M, P), into that of weights and steps.

        `parameters` are those that were deployed, and `roundings` what that returned.
        """
        weights = slice(0, self._layout.weights)
        for (rows, quantizer), rounding in zip(self._quantized, roundings, strict=True):
            quantizer.differentiate(rounding, slopes[rows, weights], self._steps(slopes[rows]))

    def restrain(self, parameters: Tensor) -> None:
        """Keep the step sizes positive after an optimizer's step."""
        for rows, _ in self._quantized:
            self._steps(parameters[rows]).clamp_(min=SMALLEST_STEP)

    def _steps(self, rows: Tensor) -> Tensor:
        return self._layout.steps.of(rows)


class CompiledDeployment:
    """The same by compiled kernels that are always over the rows of all slots: no shape depends on the neighbours."""

    def __init__(
        self, trainings: Sequence[Training], slots: int, layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._steps = layout.steps
        quantizers = [one.quantizer for one in trainings]
        self._rows = [row for row, one in enumerate(quantizers) if one is not None]
        self._lsq = None
        if self._rows:
            every = [*quantizers, *[None] * (slots - len(trainings))]
            self._lsq = CompiledLsq(every, layout.layers, layout.steps.start, device, dtype)

    def buffer(self, parameters: Tensor) -> Tensor:
        return parameters if self._lsq is None else torch.zeros_like(parameters)

    def deploy(self, parameters: Tensor, out: Tensor) -> list[Rounding]:
        if self._lsq is not None:
            self._lsq.quantize(parameters, out)
        return []

    def differentiate(self, parameters: Tensor, roundings: Sequence[Rounding], slopes: Tensor) -> None:
        if self._lsq is not None:
            self._lsq.differentiate(parameters, slopes)

    def restrain(self, parameters: Tensor) -> None:
        for row in self._rows:
            self._steps.of(parameters)[row].clamp_(min=SMALLEST_STEP)
