"""The measures a sweep may ask of a trained model. What they compute stands in `workers.measures`.

A flatness measure is one search under one set of conventions, a distortion one corruption at one severity: every
field is stored beside the number it led to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from qsweep.sweeps.corruptions import CORRUPTED, CORRUPTIONS, LARGEST, SEVERITIES
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.kinds import KINDS
from qsweep.sweeps.models import has_batch_norm
from qsweep.sweeps.settings import Rule, Setting, build, canonical, names_of, setting, settings_of
from qsweep.sweeps.training import UNKNOWN_OPERATIONS, Training

COUNT = Rule(low=1, high=1000)
SEED = Rule(low=0, high=2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What both measures share: which weights are perturbed, and the bisection for the largest perturbation.

    The bisection halves [0, `search_upper`] up to `iterations` times, until the training accuracy has moved
    by `target` to within `tolerance`. A candidate is judged by `copies` perturbed copies of the model.
    `scaling = "magnitude"` perturbs each weight in proportion to its size. `perturb = "latent"` perturbs the
    full-precision weights that the quantizer then rounds, `"quantized"` the rounded ones; `perturb_step` the
    step sizes too: those of latent weights, and those of activations. `fold_bn = "reference"` folds batch norm into the
    convolutions of full-precision models alone, as the reference code does; its γ and β are 1 and 0 then and still
    parameters: `perturb_folded = "reference"` perturbs them as that code does, `"none"` leaves them out. `denominator`
    is the vector in the magnitude-aware bound's denominator: w − w₀ (`"distance"`, as in the reference code) or r.
    `measure_samples` images of the training set, 0 for all, drawn class by class under `measure_seed`, decide the
    accuracies; m of the bounds stays the full size unless `m_from = "samples"`.
    """

    scaling: str = setting(Rule(choices=("plain", "magnitude")), default="plain")
    perturb: str = setting(Rule(choices=("latent", "quantized")), default="latent")
    perturb_step: bool = setting(default=True)
    fold_bn: str = setting(Rule(choices=("reference", "all", "none")), default="reference")
    perturb_folded: str = setting(
        Rule(choices=("reference", "none")), default="reference", added_later=True, old="none"
    )
    denominator: str = setting(Rule(choices=("distance", "r")), default="distance")
    magnitude_epsilon: float = setting(Rule(above=0, high=1), default=1e-3)
    search_upper: float = setting(Rule(above=0, high=1000), default=2.0)
    target: float = setting(Rule(above=0, high=1), default=0.1)
    tolerance: float = setting(Rule(low=0, high=1), default=0.01)
    iterations: int = setting(COUNT, default=15)
    copies: int = setting(COUNT, default=10)
    measure_samples: int = setting(Rule(low=0, high=10_000_000), default=0)
    measure_seed: int = setting(SEED, default=0)
    m_from: str = setting(Rule(choices=("train", "samples")), default="train", added_later=True)

    @property
    def semantics(self) -> int:
        """2 where γ and β of folded batch norm are perturbed; before they never were, which goes on as 1."""
        return 2 if self.perturb_folded == "reference" else 1

    def samples(self, training: Training) -> int:
        """Images that decide the accuracies."""
        return self.measure_samples or training.train_images

    def folds(self, training: Training, *, quantized: bool = False) -> bool:
        """Whether batch norm is folded into the convolutions of this training's model, or of what it was `quantized`
        to."""
        rounded = quantized or training.quantizer is not None
        folded = self.fold_bn == "all" or (self.fold_bn == "reference" and not rounded)
        return folded and has_batch_norm(training.model)

    def operations(self, training: Training) -> float:
        """Multiplications and additions of a search that takes every iteration."""
        return self.iterations * self.copies * float(self.samples(training)) * _forward(training)


@dataclass(frozen=True, kw_only=True)
class PacBayes(Search):
    """PAC-Bayes: the Gaussian noise that moves the training accuracy by the target.

    `noise_std = "reference"` hands the variance to the sampler where it expects a deviation (σ² plain,
    σ²w² + ε² magnitude-aware), as the reference code does; `"corrected"` hands the deviation.
    """

    name: ClassVar[str] = "pac_bayes"

    noise_std: str = setting(Rule(choices=("reference", "corrected")), default="reference")


@dataclass(frozen=True, kw_only=True)
class Sharpness(Search):
    """Sharpness: the radius of the ball in which the worst of `copies` ascents moves the accuracy by the target.

    An ascent starts at a random point of the ball (`start`) and takes `ascent_steps` steps of gradient ascent
    on the loss of `ascent_batch` training images, projected on ‖u‖₂ ≤ α (plain), |uᵢ| ≤ α'|wᵢ| (`ball =
    "relative"`) or |uᵢ| ≤ α'(|wᵢ| + 1) (`"relative-plus-one"`). None ends early (`early_stop`).
    """

    name: ClassVar[str] = "sharpness"

    delta: float = setting(Rule(above=0, high=1), default=0.01)
    ball: str = setting(Rule(choices=("relative", "relative-plus-one")), default="relative")
    start: str = setting(Rule(choices=("uniform", "centre")), default="uniform")
    early_stop: str = setting(Rule(choices=("none",)), default="none")
    ascent_steps: int = setting(Rule(low=0, high=10_000), default=20)
    ascent_rate: float = setting(Rule(above=0, high=1000), default=1e-4)
    ascent_batch: int = setting(Rule(low=1, high=65_536), default=128)

    def operations(self, training: Training) -> float:
        ascent = 3.0 * self.ascent_steps * self.ascent_batch * self.copies * self.iterations
        return super().operations(training) + ascent * _forward(training)


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Distortion: the loss and accuracy on the test set under one corruption at one severity.

    The corrupted images are the published ones where the data folder holds them; otherwise they are drawn under
    `corruption_seed`, which a published set has no use for. `measure_samples` images of the test set, 0 for all,
    drawn class by class under `corruption_seed`, are corrupted; the training loss is that of the whole training set.
    """

    name: ClassVar[str] = "distortion"
    semantics: ClassVar[int] = 2

    corruption: str = setting(Rule(choices=CORRUPTIONS))
    severity: int = setting(Rule(choices=SEVERITIES))
    corruption_seed: int = setting(SEED, default=0)
    measure_samples: int = setting(Rule(low=0, high=10_000_000), default=0)

    def samples(self, training: Training) -> int:
        """Images of the test set that are corrupted."""
        return self.measure_samples or training.data.test_images

    def operations(self, training: Training) -> float:
        """Multiplications and additions of one pass over the corrupted images."""
        return float(self.samples(training)) * _forward(training)


Flatness: TypeAlias = PacBayes | Sharpness
Measure: TypeAlias = Flatness | Distortion
MEASURES: dict[str, type[PacBayes] | type[Sharpness] | type[Distortion]] = {
    name: one for kind in KINDS.values() if kind.family == "measure" for name, one in kind.classes().items()
}
"""Every measure by the name that a sweep file gives it."""


def measure_from(given: Mapping[str, Any], *, place: str | None = None) -> Measure:
    """The measure that flat settings (`measure`, `noise_std`, …) describe. Raises InputError."""
    where = f"{place}: measure" if place else "measure"
    name = given.get("measure")
    if not isinstance(name, str) or name not in MEASURES:
        problem = "measure is missing" if name is None else f"{name!r} is not known"
        raise InputError(problem, place=where, allowed=nearest(str(name or ""), MEASURES))
    return build(MEASURES[name], given, place=place)


def asked_of(measure: Measure, training: Training, *, quantized: bool = False) -> Measure:
    """`measure` with every convention that makes no difference for this training at its default.

    Full precision has nothing to round and no step sizes; a perturbed quantized weight has no step size
    either. Quantized activations have step sizes in any case. What a training's model was `quantized` to has no latent
    weights, and steps of activations. Raises InputError if the set that a sample is drawn from
    is smaller than the sample, and for a distortion of a data set that has no corrupted test set or too large images.
    """
    if isinstance(measure, Distortion) and training.data.name not in CORRUPTED:
        raise InputError(
            f"there is no corrupted test set of {training.data.title}",
            place="measure",
            allowed="allowed with distortion: " + ", ".join(CORRUPTED),
        )
    most = training.data.test_images if isinstance(measure, Distortion) else training.train_images
    training.data.check_sample(measure.measure_samples, most, place="measure_samples")
    if isinstance(measure, Distortion):
        if training.data.size > LARGEST:
            raise InputError(
                f"images of {training.data.size} pixels a side are too large to be corrupted",
                place="image_size",
                allowed=f"allowed with distortion: up to {LARGEST}",
            )
        return measure
    changes: dict[str, Any] = {} if measure.measure_samples else {"m_from": "train"}
    if quantized:
        changes |= {"perturb": "quantized"}
    if training.quantizer is None and not quantized:
        changes |= {"perturb": "latent"}
        changes |= {"fold_bn": "reference"} if measure.fold_bn == "all" else {}
    else:
        changes |= {"fold_bn": "reference"} if measure.fold_bn == "none" else {}
    changes |= {} if has_batch_norm(training.model) else {"fold_bn": "reference"}
    has_steps = quantized or training.activation_quantizer is not None
    if not has_steps and (training.quantizer is None or measure.perturb == "quantized"):
        changes |= {"perturb_step": True}
    changes |= {} if measure.folds(training, quantized=quantized) else {"perturb_folded": "none"}
    if measure.scaling == "plain":
        changes |= {"denominator": "distance", "magnitude_epsilon": 1e-3}
        changes |= {"ball": "relative", "delta": 0.01} if isinstance(measure, Sharpness) else {}
    return dataclasses.replace(measure, **changes)


def measure_settings(measure: Measure) -> dict[str, Setting]:
    """Every setting of a measure by its flat name."""
    return {"measure": measure.name, **settings_of(measure)}


def measure_content(measure: Any) -> dict[str, Any]:
    """What a measure, or the settings of any other kind of job, adds to a job's identity."""
    return {"name": measure.name, **canonical(measure)}


def known_measure_settings() -> frozenset[str]:
    """The names of every setting of every measure."""
    return frozenset(("measure",)).union(*(names_of(one) for one in MEASURES.values()))


def _forward(training: Training) -> float:
    return float(sum(layer.operations for layer in training.model.layers(training.data)) or UNKNOWN_OPERATIONS)
