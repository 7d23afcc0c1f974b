"""What quantizes weights, under the names of `sweeps.quantizers`, by the table of components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from qsweep.sweeps.components import Implementations
from qsweep.workers.models.layout import Layout


class QuantizedWeights(Protocol):
    """The quantizers of M models, or one quantizer of any number of copies of a model, on rows of parameters (M, P).

    Every row is computed by itself. The step sizes of a layer are parameters of the row, in `layout.steps`. Where batch
    norm is folded into the weights, `factor` (ω) takes a latent weight to its folded one: the rows hold factor·v, and
    factor·Q(v) is what they become. `divides` asks for the arithmetic of ascents, where there are two.
    """

    def __init__(
        self,
        quantizers: Sequence[Any],
        layout: Layout,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None: ...

    @staticmethod
    def layer_bits(quantizer: Any, layout: Layout) -> list[int]:
        """The bit width of each of the layers."""
        ...

    @staticmethod
    def initialize(quantizer: Any, layout: Layout, row: Tensor) -> None:
        """Set the step sizes of one model's `row` (P) before its first step."""
        ...

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Any:
        """Write the deployed weights of `parameters` (M, P) to the first ω columns of `out` (M, P), which may be the
        same rows; what `differentiate` needs."""
        ...

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        """Round the weights of copies (C, P) of the one model in place."""
        ...

    def differentiate(self, rounding: Any, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        """Turn the gradients of deployed weights (M, P) into those of latent ones and of step sizes, in place."""
        ...

    def restrain(self, rows: Tensor) -> Tensor:
        """Keep the step sizes of `rows` (M, P) positive, in place; how many of each row were not (M)."""
        ...


QUANTIZATIONS = Implementations("quantizer")
"""The class of `QuantizedWeights` of each weight quantizer."""
