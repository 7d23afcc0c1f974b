"""The points that are perturbed: trained models in the coordinates that a measure's conventions name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.models.layout import AFFINE, Layout, Role
from qsweep.workers.models.network import Network
from qsweep.workers.models.rounded import RoundedNetwork
from qsweep.workers.quantizers.deployment import deployed_rows, quantizer_of
from qsweep.workers.quantizers.quantizer import WeightQuantizer
from qsweep.workers.results import initial_row

CPU = torch.device("cpu")


class Conventions(Protocol):
    """What of a model is perturbed, and in which coordinates."""

    @property
    def perturb(self) -> str: ...
    @property
    def perturb_step(self) -> bool: ...
    @property
    def perturb_folded(self) -> str: ...
    def folds(self, training: Training, *, quantized: bool = False) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trained model: its parameters (P), statistics (S), w₀ (all weights), and what is perturbed (P, 0 or 1).

    With batch norm folded, the row holds the folded weights and biases, γ = 1 and β = 0, and the statistics
    are such that batch norm changes nothing. `scale` (all weights) then takes a latent weight of a quantized model to
    its folded one: the model computes with scale·Q(w / scale). `quantizer` is None where no weight is rounded.
    `layout` has the step sizes of activations, if those are quantized.
    """

    parameters: Tensor
    statistics: Tensor
    initial: Tensor
    mask: Tensor
    quantizer: WeightQuantizer | None
    scale: Tensor | None
    folded: bool
    layout: Layout

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the step sizes of copies (C, P) above zero, in place; how many of each copy were not (C)."""
        low = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        if self.quantizer is not None:
            low = low + self.quantizer.restrain(rows)
        if self.layout.activations is not None:
            low = low + self.layout.activations.restrain(self.layout, rows)
        return low


def make_point(
    training: Training,
    model: Mapping[str, Tensor],
    network: Network,
    search: Conventions,
    dtype: torch.dtype,
    *,
    device: torch.device = CPU,
) -> Point:
    """The point of a kept `model` under the conventions of `search`: computed on the CPU, and moved to the device."""
    layout = network.layout
    quantizer = quantizer_of(training, layout, device, dtype)
    if quantizer is not None and search.perturb == "quantized":
        parameters, statistics = deployed_rows(training, model, layout, dtype)
        quantizer = None
    else:
        parameters, statistics = (row.to(dtype) for row in layout.packed(model))
    initial = initial_row(training, layout).to(dtype)
    first = layout.initial_statistics(training.recipe.seed).to(dtype)
    folded = search.folds(training, quantized=isinstance(network, RoundedNetwork))
    scale = None
    if folded:
        scale = network.fold(parameters, statistics)
        network.fold(initial, first)
    mask = _perturbed(layout, parameters, folded=folded, norms=not folded or search.perturb_folded == "reference")
    if quantizer is not None and search.perturb_step:
        mask[layout.steps.start : layout.steps.stop] = 1.0
    if not search.perturb_step:
        mask[layout.activation_steps.start : layout.activation_steps.stop] = 0.0
    return Point(
        parameters=parameters.to(device),
        statistics=statistics.to(device),
        initial=initial[: layout.weights].to(device),
        mask=mask.to(device),
        quantizer=quantizer,
        scale=None if quantizer is None or scale is None else scale.to(device),
        folded=folded,
        layout=layout,
    )


def _perturbed(layout: Layout, like: Tensor, *, folded: bool, norms: bool) -> Tensor:
    """1 at every parameter that the model has, but the step sizes of its weights.

    Folding gives each layer with batch norm a bias. Its γ = 1 and β = 0 are parameters still: the reference code folds
    and then perturbs all of `model.parameters()`. `norms` says whether γ and β count that can be folded; any others
    always do.
    """
    mask = torch.zeros_like(like)
    for spec in layout.of_role(*AFFINE):
        if spec.role in (Role.SCALE, Role.SHIFT):
            there = norms or not spec.folds
        else:
            there = spec.kept or (folded and spec.role is Role.HIDDEN_BIAS)
        span = layout[spec.name]
        mask[span.start : span.stop] = float(there)
    return mask


def round_copies(point: Point, rows: Tensor) -> Tensor:
    """Deploy the perturbed parameters of copies (C, P) of a point in place: step sizes above zero, weights rounded.

    How many of each copy's step sizes were not above zero (C).
    """
    low = point.restrain(rows)
    if point.quantizer is not None:
        point.quantizer.round_copies(rows, factor=point.scale)
    return low
