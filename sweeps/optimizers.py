"""The optimizers a sweep may name, with PyTorch's update rules. Their steps stand in `workers.optimizers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from qsweep.sweeps.settings import Rule, setting

RATE = Rule(above=0, high=100)
DECAY = Rule(low=0, high=1)
FRACTION = Rule(low=0, below=1)
EPSILON = Rule(above=0, high=1)


class Optimizer(Protocol):
    """What every optimizer has. Its other settings are its fields."""

    @property
    def name(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """`torch.optim.SGD` with coupled L2 weight decay and no dampening; `nesterov` needs a momentum."""

    name: ClassVar[str] = "sgd"
    semantics: ClassVar[int] = 1

    learning_rate: float = setting(RATE)
    weight_decay: float = setting(DECAY)
    momentum: float = setting(FRACTION, default=0.9)
    nesterov: bool = setting(default=False, added_later=True)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """`torch.optim.Adam` (coupled L2 weight decay, not AdamW)."""

    name: ClassVar[str] = "adam"
    semantics: ClassVar[int] = 1

    learning_rate: float = setting(RATE)
    weight_decay: float = setting(DECAY)
    beta1: float = setting(FRACTION, default=0.9)
    beta2: float = setting(FRACTION, default=0.999)
    epsilon: float = setting(EPSILON, default=1e-8)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019, arXiv 1711.05101): Adam with decoupled weight decay.

    With `decays = "matrices"` it acts on tensors of two and more dimensions alone, as transformers are trained: not on
    biases and norms, but on positions and class tokens, as in VVTQ's published trainings.
    """

    name: ClassVar[str] = "adamw"

    decays: str = setting(Rule(choices=("all", "matrices")), default="all")


@dataclass(frozen=True, kw_only=True)
class RmsProp:
    """`torch.optim.RMSprop`, uncentred, without momentum."""

    name: ClassVar[str] = "rmsprop"
    semantics: ClassVar[int] = 1

    learning_rate: float = setting(RATE)
    weight_decay: float = setting(DECAY)
    alpha: float = setting(FRACTION, default=0.99)
    epsilon: float = setting(EPSILON, default=1e-8)
