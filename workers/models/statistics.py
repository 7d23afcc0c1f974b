"""The running statistics of batch norm, of all layers of M models at once."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.workers.models.declaration import ConvLayout
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
        norms = [one.norm for one in layout.spans if one.norm is not None]
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
        batch[:, layout.means] += parameters[:, layout.hidden_biases]
        pixels = self._pixels * images
        batch[:, layout.variances] *= pixels / (pixels - 1)
        rows[:, self._kept].mul_(1 - MOMENTUM).add_(batch[:, self._kept].mul_(MOMENTUM))
