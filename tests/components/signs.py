"""A made-up optimizer, which steps by the signs of its gradients. This file is all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qsweep.sweeps.components import register
from qsweep.sweeps.parts import Component
from qsweep.sweeps.settings import Rule, setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Signs:
    """p ← p − lr·boost·sign(g)."""

    name: ClassVar[str] = "signs"
    semantics: ClassVar[int] = 1

    learning_rate: float = setting(Rule(above=0, high=100))
    weight_decay: float = setting(Rule(low=0, high=1))
    boost: float = setting(Rule(above=0), default=1.0)


class SignsSteps:
    """The steps of the models that use it."""

    keeps = (False, False)
    decoupled = False

    def __init__(self, settings: Sequence[Signs], device: torch.device, dtype: torch.dtype) -> None:
        import torch

        self._boost = torch.tensor([[one.boost] for one in settings], device=device, dtype=dtype)

    @staticmethod
    def update(parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, rate: Tensor) -> None:
        parameters.sub_(gradients.sign() * rate)

    def columns(self, rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        return (rate.to(self._boost.dtype) * self._boost,)


register("optimizer", Component(name="signs", settings=Signs, implementation=f"{__name__}:SignsSteps"))
