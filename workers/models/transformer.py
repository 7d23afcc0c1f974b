"""What the transformers have in common as networks of the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.layers import LinearLayer
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.sweeps.signals import Place, Signal
from qsweep.workers.models.layout import Layout, ModuleSpec
from qsweep.workers.models.stacked import Stack, kept_branches, reduced_dtype
from qsweep.workers.quantizers import ACTIVATION_QUANTIZATIONS
from qsweep.workers.quantizers.activations import SignalTensors, tensors_of


class Transformer(ABC):
    """M models side by side, as batched matrix products: a `workers.models.network.Network` without batch norm.

    Its form makes no difference but for the dtype of the products. `rates` are the shares of images that skip each
    branch in training, two branches a block.
    """

    def __init__(
        self,
        modules: Sequence[ModuleSpec],
        layers: Sequence[LinearLayer],
        rates: Sequence[float],
        signals: Sequence[Signal] = (),
        quantizer: ActivationQuantizer | None = None,
    ) -> None:
        if quantizer is None:
            self.layout = Layout(modules)
        else:
            some = [one for one in signals if one.place is not Place.IMAGES or quantizer.quantizes_images]
            self.layout = Layout(modules, some, ACTIVATION_QUANTIZATIONS[quantizer.name])
        self.activation = max(layer.activation for layer in layers)
        self.saved = 4 * sum(layer.activation for layer in layers)
        self._rates = tuple(rates)
        self.draws = len(rates) if any(rates) else 0

    def views(self, tensors: Mapping[str, Tensor]) -> Stack:
        return Stack(tensors, tensors_of(self.layout, tensors))

    def signals(self, views: Stack) -> list[SignalTensors]:
        return list(views.signals.values())

    def train(self, images: Tensor, views: Stack, arithmetic: Any, draws: Tensor | None = None) -> tuple[Tensor, None]:
        kept = kept_branches(draws, self._rates, images)
        return self.logits(images, views.of_dtype(reduced_dtype(arithmetic)), kept), None

    def evaluate(self, images: Tensor, views: Stack) -> Tensor:
        return self.logits(images, views, [None] * len(self._rates))

    @abstractmethod
    def logits(self, images: Tensor, stack: Stack, kept: Sequence[Tensor | None]) -> Tensor:
        """Logits (M, classes, B) of images (B, channels, side, side)."""

    def ready(self, views: Stack) -> Callable[[Tensor], Tensor]:
        @torch.no_grad()
        def judge(images: Tensor) -> Tensor:
            return self.evaluate(images, views)

        return judge

    def statistics(self, rows: Tensor) -> NoStatistics:
        return NoStatistics()

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        """There is no batch norm to fold."""
        return torch.ones_like(parameters[: self.layout.weights])


class NoStatistics:
    """There are no running statistics."""

    def update(self, rows: Tensor, parameters: Tensor, moments: None, images: int) -> None: ...


def drop_rates(blocks: int, last: float) -> list[float]:
    """The shares of images that skip each branch: from 0 in the first block to `last` in the last, two a block."""
    return [last * block / max(blocks - 1, 1) for block in range(blocks) for _ in range(2)]


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Images (B, channels, side, side) as patches in rows (B, side'², channels·patch²)."""
    batch, channels, side, _ = images.shape
    count = side // patch
    cut = images.reshape(batch, channels, count, patch, count, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, count**2, channels * patch**2)
