"""The quantizers a sweep may name. Their forward and backward passes stand in `workers.quantizers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from qsweep.sweeps.settings import Rule, setting
from qsweep.sweeps.signals import Place, Signal

FULL_PRECISION = 32
"""The value of `bits` that means: not quantized."""
WIDTHS = Rule(choices=(2, 3, 4, 5, 6, 7, 8))


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
    @property
    def quantizes_images(self) -> bool:
        """Whether the images that the first layer reads are quantized too."""

    def bits_of(self, signal: Signal) -> int:
        """The bit width of a signal."""


@dataclass(frozen=True, kw_only=True)
class Lsq:
    """Learned Step Size Quantization (Esser et al. 2020) of the weights, one step size a tensor.

    `outer_bits` is the width of the first and the last layer; `decay_step` says whether weight decay acts on
    the step sizes too (it does in much public LSQ code).
    """

    name: ClassVar[str] = "lsq"
    semantics: ClassVar[int] = 1

    bits: int = setting(WIDTHS)
    outer_bits: int = setting(WIDTHS, default=8)
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


@dataclass(frozen=True, kw_only=True)
class Liq:
    """SAQ's quantizer of the weights (Liu et al. 2021, arXiv 2111.12273, `quan_models/LIQ_wn.py`), a clip c a tensor.

    2^b levels from −c to c, none of them 0. The weights of a convolution are normalized first, to a mean of 0 and a
    deviation of 1, and stay so; those of a linear layer are not. Weight decay acts on the clips, as in SAQ's code,
    unless `decay_step` says otherwise.
    """

    name: ClassVar[str] = "liq"
    semantics: ClassVar[int] = 1

    bits: int = setting(WIDTHS)
    outer_bits: int = setting(WIDTHS, default=8)
    decay_step: bool = setting(default=True)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What the quantizers of activations have in common: one step size for what each layer reads.

    A signal out of a ReLU takes the levels 0 to 2^b − 1, any other one −2^(b−1) to 2^(b−1) − 1. `outer_activations`
    says which signals take `outer_activation_bits`, by whose custom: with `saq` what the last layer reads, with `genie`
    what the second layer reads too, with `lsq` (Esser et al. 2020) the images and what the last layer reads. The
    images are quantized with `lsq` alone. The step sizes begin from the first batch of the training. Weight decay acts
    on them if `decay_activation_step` says so.
    """

    semantics: ClassVar[int] = 1

    activation_bits: int = setting(WIDTHS)
    outer_activations: str = setting(Rule(choices=("saq", "lsq", "genie")), default="saq")
    outer_activation_bits: int = setting(WIDTHS, default=8)
    decay_activation_step: bool = setting(default=False)

    @property
    def quantizes_images(self) -> bool:
        return self.outer_activations == "lsq"

    def bits_of(self, signal: Signal) -> int:
        """The bit width of a signal."""
        outer = {Place.IMAGES, Place.OUTER}
        if self.outer_activations == "genie":
            outer.add(Place.SECOND)
        return self.outer_activation_bits if signal.place in outer else self.activation_bits


@dataclass(frozen=True, kw_only=True)
class LsqActivations(Activations):
    """Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153) of the activations.

    A step size's gradient is multiplied by 1/√(N·Qp), N the numbers that the layer reads of one image. It begins as
    2·mean|x|/√Qp.
    """

    name: ClassVar[str] = "lsq"


@dataclass(frozen=True, kw_only=True)
class LiqActivations(Activations):
    """SAQ's quantizer of the activations (`quan_models/LIQ.py`): the clip a = s·Qp is learned in the place of the step
    size s, and its gradient has no factor.

    A clip begins as 1 before a convolution, as 0.8·max|x| before a linear layer. SAQ knows no signed signals: here
    they have the levels that LSQ gives them.
    """

    name: ClassVar[str] = "liq"

    decay_activation_step: bool = setting(default=True)


@dataclass(frozen=True, kw_only=True)
class VvtqActivations:
    """VVTQ's quantizer of the activations (`HuangOwen/VVTQ`), for transformers.

    A step size's gradient is divided by Qp·√n, n the numbers of the batch (`activation_gradient = "module"`), or as LSQ
    does (`"lsq"`). It begins as 2·mean|x|/√(2^(b−1) − 1). What comes out of a GELU has the levels of an unsigned
    signal, from a learned offset on, which begins as 0. The images that a `vit` reads and what the head reads take
    `outer_activation_bits`. No weight decay acts on step sizes.
    """

    name: ClassVar[str] = "vvtq"
    semantics: ClassVar[int] = 1

    activation_bits: int = setting(WIDTHS)
    outer_activation_bits: int = setting(WIDTHS, default=8)
    activation_gradient: str = setting(Rule(choices=("module", "lsq")), default="module")

    @property
    def quantizes_images(self) -> bool:
        return True

    def bits_of(self, signal: Signal) -> int:
        """The bit width of a signal."""
        return self.outer_activation_bits if signal.place in (Place.IMAGES, Place.OUTER) else self.activation_bits


Stepped: TypeAlias = Lsq | Liq | Vvtq
"""Quantizers with one step size, or clip, for each group of weights, and a width of the outer ones."""
