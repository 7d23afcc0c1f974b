"""The points that are perturbed: trained models in the coordinates that a measure's conventions name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeps.measures import Search
from sweeps.training import Training
from workers.models.layout import Layout
from workers.models.stage import EPSILON, StageTensors
from workers.quantizers.lsq import SMALLEST_STEP, layer_bits
from workers.results import initial_row


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trained model: its row of parameters (P) and statistics (S), w₀ (ω), and what is perturbed (P, 0 or 1).

    With batch norm folded, the row holds the folded weights and biases, γ = 1 and β = 0, and the statistics
    are such that batch norm changes nothing. `scale` (ω) then takes a latent weight of a quantized model to
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
    training: Training, model: Mapping[str, Tensor], layout: Layout, search: Search, dtype: torch.dtype
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
    mask = torch.ones_like(parameters)
    mask[layout.steps.start :] = 0.0
    if folded:
        for spans in layout.spans:
            for span in (spans.gamma, spans.beta):
                mask[span.start : span.stop] = 0.0
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


def _fold(layout: Layout, parameters: Tensor, statistics: Tensor) -> Tensor:
    """Fold batch norm into weights and biases, in place; the factor of each weight (ω)."""
    factors = []
    rows, moments = parameters[None], statistics[None]
    for layer, spans in zip(layout.layers, layout.spans, strict=True):
        gamma, beta, bias = (span.of(rows)[0] for span in (spans.gamma, spans.beta, spans.bias))
        mean, variance = spans.mean.of(moments)[0], spans.variance.of(moments)[0]
        factor = gamma * (variance + EPSILON).rsqrt()
        bias.copy_(beta + (bias - mean) * factor)
        spans.weight.of(rows)[0].mul_(factor[:, None, None, None])
        gamma.fill_(1.0)
        beta.fill_(0.0)
        mean.fill_(0.0)
        variance.fill_(1.0 - EPSILON)
        factors.append(factor.repeat_interleave(layer.weights // layer.outputs))
    return torch.cat(factors)


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


def tensors_of(layout: Layout, rows: Tensor, weights: Tensor, statistics: Tensor) -> tuple[StageTensors, ...]:
    """The stages of models with these rows (M, P), deployed weights (M, ω or more) and statistics (M, S)."""
    return tuple(
        StageTensors(
            weight=spans.weight.of(weights),
            bias=spans.bias.of(rows),
            gamma=spans.gamma.of(rows),
            beta=spans.beta.of(rows),
            mean=spans.mean.of(statistics),
            variance=spans.variance.of(statistics),
        )
        for spans in layout.spans
    )
