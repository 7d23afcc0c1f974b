"""What a sweep may ask for without data: images synthesized from a trained model, and its quantization on them.
`workers.zero_shot` computes both.

Every field is stored beside what it led to. Where a value is Genie's (Jeon et al. 2023, arXiv 2212.04780), it is that
of the published code (SamsungLabs/Genie, `distill.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.kinds import QUANTIZATION, SYNTHESIS
from qsweep.sweeps.layers import ConvLayer, Layer, NormLayer
from qsweep.sweeps.settings import Rule, Setting, build, names_of, setting
from qsweep.sweeps.training import Training

RATES: Mapping[str, tuple[float, float]] = {"code": (0.1, 0.01), "paper": (0.01, 0.1)}
"""Learning rates of the embeddings and of the generator, as the published code runs and as the paper names them."""
COUNT = Rule(low=2, high=1_000_000)
SEED = Rule(low=0, high=2**31 - 1)
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
    semantics: ClassVar[int] = 2
    """Since 2 the generator's doubled convolutions are one product each: other last bits."""

    image_count: int = setting(COUNT, default=1024)
    image_batch: int = setting(Rule(low=2, high=65_536), default=128)
    image_iterations: int = setting(Rule(low=1, high=1_000_000), default=4000)
    embedding_size: int = setting(Rule(low=1, high=65_536), default=256)
    rates: str = setting(Rule(choices=tuple(RATES)), default="code")
    swing: bool = setting(default=True)
    image_seed: int = setting(SEED, default=0)

    @property
    def batches(self) -> int:
        """How many batches of images there are."""
        return self.image_count // self.image_batch

    @property
    def iterations_of_batch(self) -> int:
        """Iterations of each batch."""
        return self.image_iterations

    @property
    def steps(self) -> int:
        """Iterations of all batches."""
        return self.batches * self.iterations_of_batch

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
        return 2 * _forward(training) * self.image_batch * self.steps


BITS = Rule(choices=(2, 3, 4, 5, 6, 7, 8))
FACTOR = Rule(low=0, high=1000)
SHARP_COST = 6
"""What an iteration of SADAG's second stage costs beside one of Genie's: six passes forward and back."""


@dataclass(frozen=True, kw_only=True)
class Sadag(Genie):
    """SADAG's synthesis: Genie's for `image_iterations`, then `sharp_iterations` that look at a quantized model.

    That has weights of `weight_bits` and activations of `activation_bits`, rounded to nearest. To Genie's loss come
    `matching_factor` times how far the gradient of the last layer turns at the worst move of an image's embedding, of
    `sharp_radius`, and `diversity_factor` times how alike the gradients of different images are above
    `diversity_threshold`. The radius (2) and the factors (1) are the paper's. It does not state the others: the number
    of iterations, the deviation `delta_start` of the move that the gradient is taken at (at none it is zero), whether
    the radius is that of each `sample` or of the `batch` (`delta_norm`), whether pairs are summed or averaged
    (`diversity_scale`), and whose `features` the last layer's gradient has.
    """

    name: ClassVar[str] = "sadag"

    weight_bits: int = setting(BITS)
    activation_bits: int = setting(BITS)
    sharp_iterations: int = setting(Rule(low=1, high=1_000_000), default=400)
    sharp_radius: float = setting(Rule(above=0, high=1000), default=2.0)
    matching_factor: float = setting(FACTOR, default=1.0)
    diversity_factor: float = setting(FACTOR, default=1.0)
    diversity_threshold: float = setting(Rule(low=0, below=1), default=0.0)
    diversity_scale: str = setting(Rule(choices=("mean", "sum")), default="mean")
    delta_norm: str = setting(Rule(choices=("sample", "batch")), default="sample")
    delta_start: float = setting(Rule(above=0, high=1), default=0.01)
    features: str = setting(Rule(choices=("quantized", "float")), default="quantized")

    @property
    def iterations_of_batch(self) -> int:
        return self.image_iterations + self.sharp_iterations

    def operations(self, training: Training) -> float:
        a_step = super().operations(training) / self.steps
        return a_step * self.batches * (self.image_iterations + SHARP_COST * self.sharp_iterations)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """`image_count` images of standard normal noise: the lower bound of what synthesis is worth."""

    name: ClassVar[str] = "noise"
    semantics: ClassVar[int] = 1

    image_count: int = setting(COUNT, default=1024)
    image_seed: int = setting(SEED, default=0)

    def rows(self) -> dict[str, int]:
        """How many rows a job has, of the kinds of which it has more than one."""
        return {"synthetic_images": self.image_count, "synthesis_losses": 0}

    def operations(self, training: Training) -> float:
        """Multiplications and additions of one look at the images."""
        return _forward(training) * self.image_count


@dataclass(frozen=True, kw_only=True)
class RealImages(Noise):
    """`image_count` training images, drawn at random, not augmented: the upper bound."""

    name: ClassVar[str] = "train"


Synthesis: TypeAlias = Genie | Sadag | Noise | RealImages
SYNTHESES: Mapping[str, type[Synthesis]] = SYNTHESIS.classes()
"""Every way to synthesize images by the name that a sweep file gives it."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Weights of `weight_bits` and activations of `activation_bits`, rounded to nearest by scales that are searched.

    Those of activations are found on the first 32 images. The first layer and the last have 8-bit weights, what the
    second convolution and the last read has 8 bits, and the images are not quantized, as in Genie. Its training loss is
    that of `train_samples` training images, drawn class by class, 0 for all.
    """

    name: ClassVar[str] = "nearest"
    semantics: ClassVar[int] = 2
    """Since 2 a bias before batch norm counts, and the file has the steps of activations by their names."""

    weight_bits: int = setting(BITS)
    activation_bits: int = setting(BITS)
    train_samples: int = setting(Rule(low=0, high=10_000_000), default=0, added_later=True)

    def operations(self, training: Training) -> float:
        """Multiplications and additions of a pass over the training images that count and the test set."""
        return _forward(training) * ((self.train_samples or training.train_images) + training.data.test_images)


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Nearest):
    """From there block by block, each until it does what it did in full precision, as Genie (`reconstruct.py`).

    Whether a weight is rounded up or down is learned (AdaRound, Nagel et al. 2020) with the scale of its channel and
    the scales of activations (LSQ), in `unit_iterations` steps of Adam on `unit_batch` images each. `unit_batches =
    "genie"` has a 32nd of the images in a batch, as the published code does; the two agree at 1,024 images. A share
    `drop_share` of the activations is not quantized, drawn anew in each step (QDrop, Wei et al. 2022).
    `rounding_factor` weighs the term that draws every rounding to a decision, in all but the first fifth of the steps.
    All draws follow from `unit_seed`.
    """

    name: ClassVar[str] = "reconstruction"

    unit_iterations: int = setting(Rule(low=1, high=1_000_000), default=20_000)
    unit_batch: int = setting(Rule(low=1, high=65_536), default=32)
    unit_batches: str = setting(Rule(choices=("fixed", "genie")), default="fixed")
    drop_share: float = setting(Rule(low=0, high=1), default=0.5)
    rounding_factor: float = setting(FACTOR, default=1.0)
    rounding_rate: float = setting(Rule(above=0, high=1), default=1e-3)
    weight_step_rate: float = setting(Rule(low=0, high=1), default=1e-4)
    activation_step_rate: float = setting(Rule(low=0, high=1), default=4e-5)
    unit_seed: int = setting(SEED, default=0)

    def batch(self, images: int) -> int:
        """Images of one step."""
        return max(1, images // GENIE_BATCHES) if self.unit_batches == "genie" else min(self.unit_batch, images)

    def operations(self, training: Training) -> float:
        """With three passes' worth for each image of each step."""
        steps = 3.0 * self.unit_iterations * self.unit_batch
        return super().operations(training) + steps * _forward(training)


GENIE_BATCHES = 32
"""Batches that the published code makes of all images."""
Quantization: TypeAlias = Nearest | Reconstruction
ROUNDINGS: Mapping[str, type[Quantization]] = QUANTIZATION.classes()
"""Every way to round by the name that a sweep file gives it."""


def quantization_from(given: Mapping[str, Any], *, place: str | None = None) -> Quantization | None:
    """The quantization that flat settings (`rounding`, `weight_bits`, …) describe; None without `rounding`. Raises
    InputError."""
    name = given.get(QUANTIZATION.family)
    if name is None:
        return None
    if not isinstance(name, str) or name not in ROUNDINGS:
        where = f"{place}: rounding" if place else "rounding"
        raise InputError(f"{name!r} is not known", place=where, allowed=nearest(str(name), ROUNDINGS))
    return build(ROUNDINGS[name], given, place=place)


def synthesis_from(given: Mapping[str, Any], *, place: str | None = None) -> Synthesis:
    """The synthesis that flat settings (`images`, `image_count`, …) describe. Raises InputError."""
    where = f"{place}: images" if place else "images"
    name = given.get("images")
    if not isinstance(name, str) or name not in SYNTHESES:
        problem = "images is missing" if name is None else f"{name!r} is not known"
        raise InputError(problem, place=where, allowed=nearest(str(name or ""), SYNTHESES))
    synthesis = build(SYNTHESES[name], given, place=place)
    if isinstance(synthesis, Genie) and synthesis.image_count % synthesis.image_batch:
        raise InputError(
            f"{synthesis.image_count} images can't be made in batches of {synthesis.image_batch}",
            place=f"{place}: image_count" if place else "image_count",
            allowed="allowed: multiples of image_batch",
        )
    return synthesis


def check_parent(training: Training, synthesis: Synthesis) -> None:
    """Raise InputError unless images can be synthesized like that from the models that this training makes."""
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
    last = layers_of(training)[-1]
    if isinstance(synthesis, Sadag) and (last.norm or last.relu):
        raise InputError(
            f"the last layer of {training.model.title} is not linear, and its gradient is what sadag matches",
            place="model",
            allowed="allowed with images = 'sadag': networks with a linear head",
        )
    if isinstance(synthesis, RealImages) and synthesis.image_count > training.train_images:
        raise InputError(
            f"{synthesis.image_count} is not allowed",
            place="image_count",
            allowed=f"allowed with images = 'train': up to {training.train_images}",
        )
    if isinstance(synthesis, Genie) and training.data.size % SIDE:
        raise InputError(
            f"images of {training.data.size} pixels a side can't be synthesized",
            place="image_size",
            allowed=f"allowed with zero_shot: sides that {SIDE} divides",
        )


def check_judged(training: Training, quantization: Quantization) -> None:
    """Raise InputError unless there are as many training images as the quantized model is judged by."""
    training.data.check_sample(quantization.train_samples, training.train_images, place="train_samples")


def layers_of(training: Training) -> Sequence[Layer]:
    """The layers of a convolutional network; none of any other."""
    layers = getattr(training.model, "layers", None)
    found = () if layers is None else layers(training.data)
    return [one for one in found if isinstance(one, ConvLayer | NormLayer)]


def known_zero_shot_settings() -> frozenset[str]:
    """The names of every setting of `[[zero_shot]]`."""
    classes = (*SYNTHESES.values(), *ROUNDINGS.values())
    return frozenset((SYNTHESIS.family, QUANTIZATION.family)).union(*(names_of(one) for one in classes))


def settings_of_entry(images: Sequence[Setting], roundings: Sequence[Setting]) -> frozenset[str]:
    """The names of the settings of an entry of `[[zero_shot]]` with these images and roundings; unknown ones have
    none."""
    classes = [SYNTHESES[str(one)] for one in images if one in SYNTHESES]
    found = frozenset((SYNTHESIS.family,)).union(*(names_of(one) for one in classes))
    if not roundings:
        return found
    return found.union(
        (QUANTIZATION.family,), *(names_of(ROUNDINGS[str(one)]) for one in roundings if one in ROUNDINGS)
    )


def _forward(training: Training) -> float:
    return float(sum(layer.operations for layer in training.model.layers(training.data)))
