"""The quantizers a sweep may name. Their forward and backward passes stand in `workers.quantizers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

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


@dataclass(frozen=True, kw_only=True)
class Vvtq:
    """VVTQ's quantizer of weights (Huang et al. 2023, arXiv 2307.00331, `HuangOwen/VVTQ`), one scale a matrix.

    As LSQ, but the gradient of a scale is divided by √(Qp·Σ|w|) of its current weights (`step_gradient = "module"`) and
    not by √(N·Qp) (`"lsq"`), a scale begins where it leaves the least squared error, and a penalty draws weights
    towards the middle of their codes: its factor rises from 0 after a quarter of the epochs to `bin_regularization` at
    their end; 0 is none. `outer_bits` is the width of the patch embedding, of Swin's mergings and of the head (of the
    first and the last layer of other networks). Weight decay never acts on scales.
    """

    name: ClassVar[str] = "vvtq"
    semantics: ClassVar[int] = 1

    bits: int = setting(Rule(choices=(2, 3, 4, 5, 6, 7, 8)))
    outer_bits: int = setting(Rule(choices=(2, 3, 4, 5, 6, 7, 8)), default=8)
    step_gradient: str = setting(Rule(choices=("module", "lsq")), default="module")
    bin_regularization: float = setting(Rule(low=0, high=1), default=0.01)


Stepped: TypeAlias = Lsq | Vvtq
"""Quantizers of signed levels around 0, with one step size for each group of weights."""
