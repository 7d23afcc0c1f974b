"""What a sweep may ask for without data: images synthesized from a trained model. `workers.zero_shot` computes them.

Every field is stored beside what it led to. Where a value is Genie's (Jeon et al. 2023, arXiv 2212.04780), it is that
of the published code (SamsungLabs/Genie, `distill.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.kinds import SYNTHESIS
from qsweep.sweeps.layers import Layer
from qsweep.sweeps.settings import Rule, Setting, build, names_of, setting
from qsweep.sweeps.training import Training

RATES: Mapping[str, tuple[float, float]] = {"code": (0.1, 0.01), "paper": (0.01, 0.1)}
"""Learning rates of the embeddings and of the generator, as the published code runs and as the paper names them."""
SIDE = 4
"""The generator doubles the side of its first images twice: sides of images are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class Genie:
    """Genie's synthesis: one generator and one embedding an image, learned so that batch norm sees what it stores.

    `image_count` images come about in batches of `image_batch`, each with a generator of its own, in `image_iterations`
    steps of Adam. `rates` says which of the two learning rates the embeddings have: 0.1 in the published code, whose
    arguments are named the other way round, 0.01 in the paper; the generator has the other one. `swing` shifts the
    input of each strided convolution by up to a pixel, anew in each step. All draws follow from `image_seed`.
    """

    name: ClassVar[str] = "genie"
    semantics: ClassVar[int] = 1

    image_count: int = setting(Rule(low=2, high=1_000_000), default=1024)
    image_batch: int = setting(Rule(low=2, high=65_536), default=128)
    image_iterations: int = setting(Rule(low=1, high=1_000_000), default=4000)
    embedding_size: int = setting(Rule(low=1, high=65_536), default=256)
    rates: str = setting(Rule(choices=tuple(RATES)), default="code")
    swing: bool = setting(default=True)
    image_seed: int = setting(Rule(low=0, high=2**31 - 1), default=0)

    @property
    def batches(self) -> int:
        """How many batches of images there are."""
        return self.image_count // self.image_batch

    @property
    def steps(self) -> int:
        """Iterations of all batches."""
        return self.batches * self.image_iterations

    @property
    def embedding_rate(self) -> float:
        """The learning rate that the embeddings begin with."""
        return RATES[self.rates][0]

    @property
    def generator_rate(self) -> float:
        """The learning rate that the generator begins with."""
        return RATES[self.rates][1]

    def rows(self) -> dict[str, int]:
        """How many rows a job has, of the kinds of which it has more than one."""
        return {"synthetic_images": self.image_count, "synthesis_losses": self.steps}

    def operations(self, training: Training) -> float:
        """Multiplications and additions: each image through the network and back to its pixels, in each iteration."""
        forward = float(sum(layer.operations for layer in training.model.layers(training.data)))
        return 2 * forward * self.image_batch * self.steps


Synthesis: TypeAlias = Genie
SYNTHESES: Mapping[str, type[Genie]] = SYNTHESIS.classes()
"""Every way to synthesize images by the name that a sweep file gives it."""


def synthesis_from(given: Mapping[str, Any], *, place: str | None = None) -> Synthesis:
    """The synthesis that flat settings (`images`, `image_count`, …) describe. Raises InputError."""
    where = f"{place}: images" if place else "images"
    name = given.get("images")
    if not isinstance(name, str) or name not in SYNTHESES:
        problem = "images is missing" if name is None else f"{name!r} is not known"
        raise InputError(problem, place=where, allowed=nearest(str(name or ""), SYNTHESES))
    synthesis = build(SYNTHESES[name], given, place=place)
    if synthesis.image_count % synthesis.image_batch:
        raise InputError(
            f"{synthesis.image_count} images can't be made in batches of {synthesis.image_batch}",
            place=f"{place}: image_count" if place else "image_count",
            allowed="allowed: multiples of image_batch",
        )
    return synthesis


def check_parent(training: Training) -> None:
    """Raise InputError unless images can be synthesized from the models that this training makes."""
    if training.quantizer is not None or training.activation_quantizer is not None:
        raise InputError(
            "images are synthesized from a full-precision model, and this training's is quantized",
            place="bits",
            allowed="allowed with zero_shot: 32, and no activation_quantizer",
        )
    if not any(layer.norm for layer in layers_of(training)):
        raise InputError(
            f"{training.model.title} has no batch norm, whose statistics the images are made from",
            place="model",
            allowed="allowed with zero_shot: networks with batch norm",
        )
    if training.data.size % SIDE:
        raise InputError(
            f"images of {training.data.size} pixels a side can't be synthesized",
            place="image_size",
            allowed=f"allowed with zero_shot: sides that {SIDE} divides",
        )


def layers_of(training: Training) -> Sequence[Layer]:
    """The network's layers; none of one that is no list of them."""
    layers = getattr(training.model, "layers", None)
    return () if layers is None else layers(training.data)


def known_zero_shot_settings() -> frozenset[str]:
    """The names of every setting of `[[zero_shot]]`."""
    return frozenset((SYNTHESIS.family,)).union(*(names_of(one) for one in SYNTHESES.values()))


def synthesis_settings(name: Setting) -> frozenset[str]:
    """The names of the settings of an entry of `[[zero_shot]]` with these images; none if they are unknown."""
    return frozenset(names_of(SYNTHESES[str(name)])) if name in SYNTHESES else frozenset()
