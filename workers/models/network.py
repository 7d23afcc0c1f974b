"""What the engine asks of a network, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from qsweep.workers.models.arithmetic import Arithmetic
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.activations import SignalTensors


class Statistics(Protocol):
    """What a network's training passes leave in the rows of statistics."""

    def update(self, rows: Tensor, parameters: Tensor, moments: Any, images: int) -> None:
        """Move `rows` (M, S) by the `moments` that a training pass of that many images left."""


class Network(Protocol):
    """M models of one architecture side by side. Models never meet: what one computes depends on its own tensors alone.

    A network declares its tensors in `layout`, and computes with views of them that it makes itself.
    """

    @property
    def layout(self) -> Layout:
        """Its tensors."""

    @property
    def activation(self) -> int:
        """Numbers in the largest activation of one image."""

    @property
    def draws(self) -> int:
        """Uniform numbers that a training pass takes of each image, for what is random in it; with them `train` has a
        fourth argument."""

    @property
    def saved(self) -> int | None:
        """About how many numbers a training pass keeps of an image in one model, where no image's loss depends on
        another, so that a batch may be taken in parts; None where it may not."""

    def views(self, tensors: Mapping[str, Tensor]) -> Any:
        """What the passes take, of the tensors (M, *shape) that `Layout.tensors` or `Layout.leaves` names."""

    def signals(self, views: Any) -> Sequence[SignalTensors]:
        """The quantized signals among the views, in the order in which a pass reads them; asked of networks with such
        alone."""

    def train(
        self, images: Tensor, views: Any, arithmetic: Arithmetic[Any], draws: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Logits (M, classes, B) of images (B, channels, side, side) in training mode, and what the statistics take
        of the pass. `draws` (`draws`, B) are uniform in [0, 1), for all models alike."""

    def evaluate(self, images: Tensor, views: Any) -> Tensor:
        """Logits (M, classes, B) of images (B, channels, side, side) with the running statistics; differentiable."""

    def ready(self, views: Any) -> Callable[[Tensor], Tensor]:
        """Computes what `evaluate` does, of images that are best channels-last, without a graph: what is made of the
        views is made once, for many batches."""

    def statistics(self, rows: Tensor) -> Statistics:
        """What keeps the statistics of rows (M, S)."""

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        """Fold what normalizes into the weights and biases of one model's rows (P) and (S), in place, so that it
        changes nothing any more; the factor of each weight (all weights)."""
