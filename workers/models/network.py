"""The rows of M models as the tensors that their stages compute with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qsweep.workers.models.layout import LayerSpans, Layout
from qsweep.workers.models.stage import NormTensors, StageTensors


def stage_tensors(layout: Layout, parameters: Tensor, weights: Tensor, statistics: Tensor) -> tuple[StageTensors, ...]:
    """Views into rows of parameters (M, P), deployed weights (M, ω or more) and statistics (M, S).

    They follow the rows when those are changed in place.
    """
    return tuple(_views(spans, parameters, weights, statistics) for spans in layout.spans)


def leaf_tensors(stages: Sequence[StageTensors]) -> tuple[StageTensors, ...]:
    """The same tensors as leaves of a graph, all but the running statistics."""
    return tuple(
        StageTensors(
            weight=_leaf(one.weight),
            bias=_leaf(one.bias),
            norm=None
            if one.norm is None
            else NormTensors(
                gamma=_leaf(one.norm.gamma),
                beta=_leaf(one.norm.beta),
                mean=one.norm.mean,
                variance=one.norm.variance,
            ),
        )
        for one in stages
    )


def slope_views(layout: Layout, slopes: Tensor) -> list[Tensor]:
    """Where the gradients of `trained(…)` lie in rows of gradients (M, P), in the same order."""
    return [span.of(slopes) for spans in layout.spans for span in spans.trained]


def trained(stages: Sequence[StageTensors]) -> list[Tensor]:
    """The tensors of all stages that training gives a gradient."""
    return [tensor for stage in stages for tensor in stage.trained]


def _views(spans: LayerSpans, parameters: Tensor, weights: Tensor, statistics: Tensor) -> StageTensors:
    norm = None
    if spans.norm is not None:
        norm = NormTensors(
            gamma=spans.norm.gamma.of(parameters),
            beta=spans.norm.beta.of(parameters),
            mean=spans.norm.mean.of(statistics),
            variance=spans.norm.variance.of(statistics),
        )
    return StageTensors(weight=spans.weight.of(weights), bias=spans.bias.of(parameters), norm=norm)


def _leaf(view: Tensor) -> Tensor:
    return view.detach().requires_grad_()
