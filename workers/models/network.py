"""The rows of M models as the tensors that their stages compute with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workers.models.layout import Layout
from workers.models.stage import StageTensors


def stage_tensors(layout: Layout, parameters: Tensor, weights: Tensor, statistics: Tensor) -> tuple[StageTensors, ...]:
    """Views into rows of parameters (M, P), deployed weights (M, ω or more) and statistics (M, S).

    They follow the rows when those are changed in place; the trained ones are leaves of a graph.
    """
    return tuple(
        StageTensors(
            weight=_leaf(spans.weight.of(weights)),
            bias=spans.bias.of(parameters),
            gamma=_leaf(spans.gamma.of(parameters)),
            beta=_leaf(spans.beta.of(parameters)),
            mean=spans.mean.of(statistics),
            variance=spans.variance.of(statistics),
        )
        for spans in layout.spans
    )


def slope_views(layout: Layout, slopes: Tensor) -> list[Tensor]:
    """Where the gradients of `trained(…)` lie in rows of gradients (M, P), in the same order."""
    return [one.of(slopes) for spans in layout.spans for one in (spans.weight, spans.gamma, spans.beta)]


def trained(stages: Sequence[StageTensors]) -> list[Tensor]:
    """The leaves of all stages."""
    return [tensor for stage in stages for tensor in stage.trained]


def _leaf(view: Tensor) -> Tensor:
    return view.detach().requires_grad_()
