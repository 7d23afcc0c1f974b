"""The points that are perturbed: trained models in the coordinates that a measure's conventions name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.models.layout import Layout
from qsweep.workers.models.network import stage_tensors
from qsweep.workers.models.stage import EPSILON
from qsweep.workers.quantizers.lsq import SMALLEST_STEP, layer_bits
from qsweep.workers.results import initial_row


class Conventions(Protocol):
    """What of a model is perturbed, and in which coordinates."""

    @property
    def perturb(self) -> str: ...
    @property
    def perturb_step(self) -> bool: ...
    @property
    def perturb_folded(self) -> str: ...
    def folds(self, training: Training) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trained model: its parameters (P), statistics (S), w₀ (all weights), and what is perturbed (P, 0 or 1).

    With batch norm folded, the row holds the folded weights and biases, γ = 1 and β = 0, and the statistics
    are such that batch norm changes nothing. `scale` (all weights) then takes a latent weight of a quantized model to
    its folded one: the model computes with scale·Q(w / scale). `bits` is None where nothing is rounded.
    """

    parameters: Tensor
    statistics: Tensor
    initial: Tensor
    mask: Tensor
    bits: tuple[int, ...] | None
    scale: Tensor | None
    folded: bool


def make_point(
    training: Training, model: Mapping[str, Tensor], layout: Layout, search: Conventions, dtype: torch.dtype
) -> Point:
    """The point of a kept `model` under the conventions of `search`, on the CPU."""
    parameters, statistics = (row.to(dtype) for row in layout.packed(model))
    initial = initial_row(training, layout).to(dtype)
    first = layout.initial_statistics().to(dtype)
    bits = None if training.quantizer is None else tuple(layer_bits(training.quantizer, len(layout.layers)))
    weights = slice(0, layout.weights)
    if bits is not None and search.perturb == "quantized":
        steps = layout.steps.of(parameters[None])
        round_weights(layout, bits, None, parameters[None], steps)
        bits = None
    folded = search.folds(training)
    scale = None
    if folded:
        scale = _fold(layout, parameters, statistics)
        _fold(layout, initial, first)
    mask = _perturbed(layout, parameters, folded=folded, norms=not folded or search.perturb_folded == "reference")
    if bits is not None and search.perturb_step:
        mask[layout.steps.start : layout.steps.stop] = 1.0
    return Point(
        parameters=parameters,
        statistics=statistics,
        initial=initial[weights],
        mask=mask,
        bits=bits,
        scale=scale if bits is not None else None,
        folded=folded,
    )


def _perturbed(layout: Layout, like: Tensor, *, folded: bool, norms: bool) -> Tensor:
    """1 at every parameter that the model has, but its step sizes.

    Folding gives each layer with batch norm a bias. Its γ = 1 and β = 0 are parameters still: the reference code folds
    and then perturbs all of `model.parameters()`. `norms` says whether γ and β count.
    """
    mask = torch.zeros_like(like)
    for layer, spans in zip(layout.layers, layout.spans, strict=True):
        there = [spans.weight]
        if layer.bias or (folded and layer.norm):
            there.append(spans.bias)
        if spans.norm is not None and norms:
            there += [spans.norm.gamma, spans.norm.beta]
        for span in there:
            mask[span.start : span.stop] = 1.0
    return mask


def _fold(layout: Layout, parameters: Tensor, statistics: Tensor) -> Tensor:
    """Fold batch norm into weights and biases, in place; the factor of each weight (all weights)."""
    scale = torch.ones_like(parameters[: layout.weights])
    stages = stage_tensors(layout, parameters[None], parameters[None], statistics[None])
    for spans, stage in zip(layout.spans, stages, strict=True):
        factor, shift = stage.scale_and_shift()
        if stage.norm is None or factor is None:
            continue
        spans.weight.of(scale[None]).mul_(factor[:, :, None, None, None])
        stage.weight.mul_(factor[:, :, None, None, None])
        stage.bias.copy_(shift)
        for tensor, value in zip(
            (stage.norm.gamma, stage.norm.beta, stage.norm.mean, stage.norm.variance),
            (1.0, 0.0, 0.0, 1.0 - EPSILON),
            strict=True,
        ):
            tensor.fill_(value)
    return scale


def round_weights(
    layout: Layout, bits: Sequence[int], scale: Tensor | None, rows: Tensor, steps: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Round the weights of one model's copies in `rows` (C, P), in place, at `steps` (C, layers).

    v̂ = s·round(clip(v/s, Qn, Qp)), of v/scale and times scale where weights are folded. Returns, for each
    layer, round(clip(u)) and u = v/s (C, N), which an ascent's backward pass needs.
    """
    kept = []
    for index, (one, spans) in enumerate(zip(bits, layout.spans, strict=True)):
        weights = rows[:, spans.weight.start : spans.weight.stop]
        factor = None if scale is None else scale[spans.weight.start : spans.weight.stop]
        step = steps[:, index : index + 1]
        ratio = weights / step if factor is None else (weights / factor) / step
        high = 2.0 ** (one - 1) - 1
        rounded = ratio.clamp(-high - 1, high).round_()
        torch.mul(rounded, step, out=weights)
        if factor is not None:
            weights.mul_(factor)
        kept.append((rounded, ratio))
    return kept


def clamp_steps(layout: Layout, rows: Tensor) -> Tensor:
    """Keep the perturbed step sizes of `rows` (C, P) above zero, in place; how many of each row were not (C)."""
    steps = layout.steps.of(rows)
    low = (steps < SMALLEST_STEP).sum(1)
    steps.clamp_(min=SMALLEST_STEP)
    return low
