"""The training methods a sweep may name. What a step of each does stands in `workers.methods`.

All but the plain one are sharpness-aware: a first pass of the batch finds a perturbation ε of length ρ up the loss, and
the optimizer steps down the gradient of a second pass there. They differ in what ε is made of and where it is added.
The ball of ε holds the weights, biases, and γ and β of batch norm. It holds the quantizer's step sizes only with
`ball_steps`, as in SAQ's code of SAM (`utils/sam.py`); SAQ's third case has them out by default (`include_wclip`).

The first pass alone moves the running statistics of batch norm, as in SAM's usual code (`davda54/sam`); with
`bn_second_pass` both do, as in SAQ's (`ziplab/SAQ`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

from qsweep.sweeps.settings import Rule, setting

RADIUS = Rule(low=0, high=1000)


class Method(Protocol):
    """What every training method has; its settings are its fields."""

    @property
    def name(self) -> str: ...
    @property
    def passes(self) -> int:
        """Forward and backward passes of each batch."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """One gradient a step, at the deployed weights."""

    name: ClassVar[str] = "plain"
    semantics: ClassVar[int] = 1
    passes: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class SharpnessAware:
    """What all of them have. `rho` is the length ρ of ε, in the units of the parameters.

    With `ascent_images` m each m images of a batch have an ε and a second pass of their own, whose gradients are
    averaged (m-sharpness, Foret et al. 2021, section 4.1), and batch norm takes the moments of each m images: so SAQ's
    code trains on several GPUs, m images on each, whose first pass exchanges no gradients. Running statistics are those
    of the first m images of each batch, as `DistributedDataParallel` keeps the first GPU's. 0 is the whole batch.
    """

    semantics: ClassVar[int] = 1
    passes: ClassVar[int] = 2

    rho: float = setting(RADIUS)
    bn_second_pass: bool = setting(default=False)
    ball_steps: bool = setting(default=False)
    ascent_images: int = setting(Rule(low=0, high=65_536), default=0, added_later=True)


@dataclass(frozen=True, kw_only=True)
class Sam(SharpnessAware):
    """Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412): ε = ρ·g/(‖g‖ + 1e-12) is added to θ.

    On quantized weights the loss is L(Q(w + ε)): SAQ's second case. Usual ρ in full precision: 0.05 to 0.1.
    """

    name: ClassVar[str] = "sam"


@dataclass(frozen=True, kw_only=True)
class Asam(SharpnessAware):
    """Adaptive SAM (Kwon et al. 2021, arXiv 2102.11600): ε = ρ·T²g/(‖T·g‖ + 1e-16), T = |p| + η.

    T is 1 for biases, β and step sizes. `saq` is what SAQ's code makes of it (`utils/asam.py`): p²g in the place of
    T²g, and a step size counts as a weight. Usual ρ: 0.5 to 1; η = 0.01 (`SamsungLabs/ASAM`).
    """

    name: ClassVar[str] = "asam"

    asam: str = setting(Rule(choices=("official", "saq")), default="official")
    eta: float = setting(Rule(low=0, high=1), default=0.01)


@dataclass(frozen=True, kw_only=True)
class Saq1(SharpnessAware):
    """SAQ's first case (Liu et al. 2021, arXiv 2111.12273): L(Q(w) + ε), ε up the gradient in the latent weights w.

    That gradient is the `straight-through` one, 0 where a weight is clipped, or with `float` that of the network with
    unquantized weights; the paper's own words on it are lost, and both readings are this project's.
    """

    name: ClassVar[str] = "saq1"

    case1_gradient: str = setting(Rule(choices=("straight-through", "float")), default="straight-through")


@dataclass(frozen=True, kw_only=True)
class Saq2(SharpnessAware):
    """SAQ's second case: L(Q(w + ε)). It is SAM, under SAM's name."""

    name: ClassVar[str] = "saq2"


@dataclass(frozen=True, kw_only=True)
class Saq3(SharpnessAware):
    """SAQ's third case, its default: L(Q(w) + ε), ε up the gradient in the quantized weights Q(w)."""

    name: ClassVar[str] = "saq3"


def settled(method: Any, quantizer: Any, recipe: Any) -> Any:
    """The method under the one name and with the options that it has beside this quantizer, None in full precision, and
    recipe.

    SAQ's second case is SAM, and so are all three in full precision. There are no step sizes in full precision, nor
    has the unquantized network of `case1_gradient = "float"` a gradient in them. Parts as large as the batch are none.
    """
    if not isinstance(method, SharpnessAware):
        return method
    full = quantizer is None
    if isinstance(method, Saq2) or (full and isinstance(method, Saq1 | Saq3)):
        shared = (field.name for field in fields(SharpnessAware))
        method = Sam(**{name: getattr(method, name) for name in shared})
    without_steps = full or getattr(method, "case1_gradient", "") == "float"
    changes: dict[str, Any] = {"ball_steps": False} if without_steps else {}
    changes |= {"ascent_images": 0} if method.ascent_images >= recipe.batch_size else {}
    return replace(method, **changes)
