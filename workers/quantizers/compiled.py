"""The weights that M models compute with, by compiled kernels over whole rows: for the compiled forms alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.quantizers import Lsq
from qsweep.sweeps.training import Training
from qsweep.workers.compiling import compiled
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.deployment import Deployment
from qsweep.workers.quantizers.lsq import SMALLEST_STEP, level_tables, round_to, shares_of_steps


def compiled_deployment(
    trainings: Sequence[Training], slots: int, layout: Layout, device: torch.device, dtype: torch.dtype
) -> CompiledDeployment | Deployment:
    """The deployment of a compiled form: compiled too, unless there is a quantizer that has no such kernels."""
    if all(isinstance(one.quantizer, Lsq | None) for one in trainings):
        return CompiledDeployment(trainings, slots, layout, device, dtype)
    return Deployment(trainings, layout, device, dtype)


class CompiledDeployment:
    """As `Deployment` of LSQ alone, always over the rows of all slots: no shape depends on the neighbours."""

    def __init__(
        self, trainings: Sequence[Training], slots: int, layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._steps = layout.steps
        quantizers = [one.quantizer if isinstance(one.quantizer, Lsq) else None for one in trainings]
        self._rows = [row for row, one in enumerate(quantizers) if one is not None]
        self._lsq = None
        if self._rows:
            every = [*quantizers, *[None] * (slots - len(trainings))]
            self._lsq = CompiledLsq(every, layout, device, dtype)

    def buffer(self, parameters: Tensor) -> Tensor:
        return parameters if self._lsq is None else torch.zeros_like(parameters)

    def open(self, epoch: int) -> None:
        """Every epoch is alike to LSQ."""

    def deploy(self, parameters: Tensor, out: Tensor) -> list[Any]:
        if self._lsq is not None:
            self._lsq.quantize(parameters, out)
        return []

    def differentiate(self, parameters: Tensor, roundings: Sequence[Any], gradients: Tensor) -> None:
        if self._lsq is not None:
            self._lsq.differentiate(parameters, gradients)

    def restrain(self, parameters: Tensor) -> None:
        for row in self._rows:
            self._steps.of(parameters)[row].clamp_(min=SMALLEST_STEP)


class CompiledLsq:
    """The quantizers of M models as two kernels over whole rows of parameters (M, P). Rows without a quantizer stay
    what they are.

    The backward pass rounds again: to read the weights once more costs less than to keep three more of their size.
    """

    def __init__(
        self, quantizers: Sequence[Lsq | None], layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        some = next(one for one in quantizers if one is not None)
        self._steps_start = layout.steps.start
        self._counts = tuple(group.count for group in layout.groups)
        self._own = torch.tensor([one is not None for one in quantizers])[:, None].to(device)
        self._tables = level_tables([one or some for one in quantizers], layout, device, dtype)

    def quantize(self, parameters: Tensor, out: Tensor) -> None:
        """Write v̂, or v, to the first ω columns of `out` (M, P)."""
        tables = self._tables
        given = (self._steps_start, tables.layer_of, tables.low, tables.high)
        compiled(quantize_own)(self._own, parameters, out, *given)

    def differentiate(self, parameters: Tensor, gradients: Tensor) -> None:
        """Turn ∂v̂ in the first ω columns of `gradients` (M, P) into ∂v, and write ∂s to those of the step sizes."""
        tables = self._tables
        given = (self._steps_start, tables.layer_of, tables.low, tables.high, tables.scale, self._counts)
        compiled(differentiate_own)(self._own, parameters, gradients, *given)


def quantize_own(
    own: Tensor, parameters: Tensor, out: Tensor, steps_start: int, layer_of: Tensor, low: Tensor, high: Tensor
) -> None:
    """`CompiledLsq.quantize`, with `own` (M, 1) true where a row has a quantizer."""
    weights = parameters[:, : len(layer_of)]
    step = parameters[:, steps_start : steps_start + low.shape[1]][:, layer_of]
    rounding = round_to(weights, step, low[:, layer_of], high[:, layer_of])
    out[:, : len(layer_of)].copy_(torch.where(own, rounding.rounded * step, weights))


def differentiate_own(
    own: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    steps_start: int,
    layer_of: Tensor,
    low: Tensor,
    high: Tensor,
    scale: Tensor,
    counts: tuple[int, ...],
) -> None:
    """`CompiledLsq.differentiate`."""
    weights, above = parameters[:, : len(layer_of)], gradients[:, : len(layer_of)]
    of_steps = gradients[:, steps_start : steps_start + len(counts)]
    step = parameters[:, steps_start : steps_start + len(counts)][:, layer_of]
    rounding = round_to(weights, step, low[:, layer_of], high[:, layer_of])
    shares, inside = shares_of_steps(rounding, above)
    sums = torch.stack([part.sum(1) for part in torch.split(shares, list(counts), 1)], 1)
    above.copy_(torch.where(own, above * inside, above))
    of_steps.copy_(torch.where(own, sums * scale, of_steps))
