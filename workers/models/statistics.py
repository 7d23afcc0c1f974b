"""The running statistics of batch norm, of all layers of M models at once."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.workers.models.declaration import ConvLayout, LayerSpans, NormSpans
from qsweep.workers.models.stage import Moments

MOMENTUM = 0.1
"""Share of a new batch in the running statistics, as in `torch.nn.BatchNorm2d`."""


class RunningStatistics:
    """running ← 0.9·running + 0.1·batch, of the mean (with the conv's bias) and the unbiased variance."""

    def __init__(self, layout: ConvLayout, rows: Tensor) -> None:
        self._layout = layout
        self._kept = slice(0, layout.variances.stop)
        """Without the levels of activations, which stay."""
        self._batch = torch.zeros_like(rows)
        norms = [norm for one in layout.spans if (norm := norm_of(one)) is not None]
        self._biased = _runs(layout)
        self._views = [one.mean.of(self._batch) for one in norms]
        self._views += [one.variance.of(self._batch) for one in norms]
        pixels = [torch.full((one.outputs,), float(one.side**2)) for one in layout.layers if one.norm]
        self._pixels = torch.cat(pixels).to(rows.device, rows.dtype)

    def update(
        self,
        rows: Tensor,
        parameters: Tensor,
        moments: list[Moments],
        images: int,
    ) -> None:
        """Move `rows` (M, S) by the moments of a batch of `images`, those of each layer with batch norm."""
        if not moments:
            return
        means, variances = zip(*moments, strict=True)
        torch._foreach_copy_(self._views, [*means, *variances])
        layout, batch = self._layout, self._batch
        for means_, biases in self._biased:
            batch[:, means_] += parameters[:, biases]
        pixels = self._pixels * images
        batch[:, layout.variances] *= pixels / (pixels - 1)
        rows[:, self._kept].mul_(1 - MOMENTUM).add_(batch[:, self._kept].mul_(MOMENTUM))


def norm_of(spans: LayerSpans | NormSpans) -> NormSpans | None:
    """The batch norm of a layer, if it has one."""
    return spans if isinstance(spans, NormSpans) else spans.norm


def _runs(layout: ConvLayout) -> list[tuple[slice, slice]]:
    """Where running means lie in their row, and the biases under them in theirs, in as few runs as there may be."""
    found: list[tuple[slice, slice]] = []
    for one in layout.spans:
        if isinstance(one, NormSpans) or one.norm is None or one.bias is None:
            continue
        mean, bias = (slice(span.start, span.stop) for span in (one.norm.mean, one.bias))
        if found and (found[-1][0].stop, found[-1][1].stop) == (mean.start, bias.start):
            mean, bias = slice(found[-1][0].start, mean.stop), slice(found[-1][1].start, bias.stop)
            found.pop()
        found.append((mean, bias))
    return found
