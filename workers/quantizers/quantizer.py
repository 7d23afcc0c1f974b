"""What the engine and the measures ask of a family of weight quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from qsweep.workers.models.layout import Layout


class WeightQuantizer(Protocol):
    """The quantizers of M models, or one quantizer of any number of copies of a model, on rows of parameters (M, P).

    Rows never meet: what becomes of one depends on its own settings and values alone. Where batch norm is folded into
    the weights, `factor` (all weights) takes a latent weight to its folded one: rows of factor·v become factor·v̂.
    """

    def __init__(
        self,
        quantizers: Sequence[Any],
        layout: Layout,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None:
        """`quantizers` are the settings of each row; `divides` is as in `LsqWeights`."""

    @staticmethod
    def layer_bits(quantizer: Any, layout: Layout) -> list[int]:
        """The bit width of each group of weights."""

    @staticmethod
    def initialize(quantizer: Any, layout: Layout, row: Tensor) -> None:
        """Set the step sizes that one model's `row` (P) begins with."""

    def open(self, epoch: int, epochs: int) -> None:
        """Begin an epoch (from 0) of so many of the training. Measures of trained models begin none."""

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Any:
        """Write v̂ of `parameters` (M, P) to the first columns of `out` (M, P), which may be the same rows; what
        `differentiate` needs."""

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        """Round the weights of copies (C, P) of the one model in place, in bounded memory."""

    def differentiate(self, rounding: Any, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        """Turn ∂v̂ in the first columns of `gradients` (M, P) into ∂v, in place, and write the step sizes' gradients."""

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the step sizes of `rows` (M, P) in their range, in place; how many of each row were not (M)."""
