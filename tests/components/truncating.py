"""A made-up weight quantizer, which rounds towards zero. This file is all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qsweep.sweeps.components import register
from qsweep.sweeps.parts import Component
from qsweep.sweeps.settings import Rule, setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Truncating:
    """v̂ = s·trunc(v/s), where s = stretch·max|v|/Qp of each layer at the start and for ever."""

    name: ClassVar[str] = "truncating"
    semantics: ClassVar[int] = 1

    bits: int = setting(Rule(choices=(3, 4)))
    stretch: float = setting(Rule(above=0, high=2), default=1.0)

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1


class TruncatedWeights:
    """The quantizers of M models, or of copies of one model, on rows of parameters (M, P)."""

    def __init__(
        self,
        quantizers: Sequence[Truncating],
        layout: Any,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divides: bool = False,
    ) -> None:
        import torch

        self._layout = layout
        self._weights = slice(0, layout.weights)
        counts = torch.tensor([group.count for group in layout.groups], device=device)
        self._layer_of = torch.arange(len(counts), device=device).repeat_interleave(counts)
        self._highest = torch.tensor([[one.highest] for one in quantizers], device=device, dtype=dtype)

    @staticmethod
    def layer_bits(quantizer: Truncating, layout: Any) -> list[int]:
        return [quantizer.bits] * len(layout.groups)

    @staticmethod
    def initialize(quantizer: Truncating, layout: Any, row: Tensor) -> None:
        parts = row[: layout.weights].split([group.count for group in layout.groups])
        for index, one in enumerate(part.abs().max() for part in parts):
            layout.steps.of(row[None])[0, index] = quantizer.stretch * one / quantizer.highest

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Tensor:
        step = self._layout.steps.of(parameters)[:, self._layer_of]
        weights = parameters[:, self._weights]
        ratio = (weights if factor is None else weights / factor) / step
        inside = ratio.abs() <= self._highest
        deployed = ratio.trunc().clamp(-self._highest, self._highest) * step
        out[:, self._weights] = deployed if factor is None else deployed * factor
        return inside

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        self.quantize(rows, rows, factor=factor)

    def differentiate(self, rounding: Tensor, gradients: Tensor, *, factor: Tensor | None = None) -> None:
        gradients[:, self._weights] *= rounding
        self._layout.steps.of(gradients).zero_()

    def open(self, epoch: int, epochs: int) -> None: ...

    def restrain(self, rows: Tensor) -> Tensor:
        steps = self._layout.steps.of(rows)
        low = (steps <= 0).sum(1)
        steps.clamp_(min=1e-6)
        return low


register(
    "quantizer",
    Component(name="truncating", settings=Truncating, implementation=f"{__name__}:TruncatedWeights"),
)
