"""The quantizers a sweep may name. Their forward and backward passes stand in `workers.quantizers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from qsweep.sweeps.settings import Rule, setting

FULL_PRECISION = 32
"""The value of `bits` that means: not quantized."""


class Quantizer(Protocol):
    """What every weight quantizer has. Its other settings are its fields."""

    @property
    def name(self) -> str: ...
    @property
    def bits(self) -> int: ...


class ActivationQuantizer(Protocol):
    """What every activation quantizer has. Its other settings are its fields."""

    @property
    def name(self) -> str: ...
    @property
    def activation_bits(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Lsq:
    """Learned Step Size Quantization (Esser et al. 2020) of the weights, one step size a tensor.

    `outer_bits` is the width of the first and the last layer; `decay_step` says whether weight decay acts on
    the step sizes too (it does in much public LSQ code).
    """

    name: ClassVar[str] = "lsq"
    semantics: ClassVar[int] = 1

    bits: int = setting(Rule(choices=(2, 3, 4, 5, 6, 7, 8)))
    outer_bits: int = setting(Rule(choices=(2, 3, 4, 5, 6, 7, 8)), default=8)
    decay_step: bool = setting(default=False)
