"""The loss landscape around a trained model, or between two: what is asked. It is computed in `workers.landscape`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qsweep.sweeps.components import PARTS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.settings import Rule, build, canonical, setting, settings_of
from qsweep.sweeps.training import Training

MOST = 201
"""Points a side of a plane: more are no better to look at."""
PLANE, LINE, BETWEEN = "plane", "line", "between"


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Mean cross-entropy and accuracy on training images, in evaluation mode, at points w + x·d₁ (+ y·d₂).

    `view = "plane"` is a grid of `points` × `points` with x and y in [−`radius`, `radius`], `"line"` the same along
    d₁ alone: d₁ and d₂ are Gaussian directions under `seed`, filter-normalized (Li et al. 2018). `"between"` goes
    from one model (x = 0) to another (x = 1) in a straight line, batch norm's statistics included. `perturb =
    "latent"` moves the full-precision weights, which the quantizer then rounds, `"quantized"` the rounded ones.
    `samples` training images, 0 for all, drawn class by class under `seed`, decide losses and accuracies.
    """

    semantics: ClassVar[int] = 1

    view: str = setting(Rule(choices=(PLANE, LINE, BETWEEN)), default=PLANE)
    points: int = setting(Rule(low=3, high=1001), default=51)
    radius: float = setting(Rule(above=0, high=1000), default=1.0)
    perturb: str = setting(Rule(choices=("latent", "quantized")), default="latent")
    samples: int = setting(Rule(low=0, high=10_000_000), default=0)
    seed: int = setting(Rule(low=0, high=2**31 - 1), default=0)

    perturb_step: ClassVar[bool] = False
    """Step sizes are no directions: they stay as they are."""
    perturb_folded: ClassVar[str] = "none"
    """Batch norm is not folded."""

    @classmethod
    def from_settings(cls, given: Mapping[str, Any]) -> Landscape:
        """What these settings describe. Raises InputError."""
        asked = build(cls, given)
        if asked.view != BETWEEN and asked.points % 2 == 0:
            raise InputError(
                f"{asked.points} is not allowed",
                place="points",
                allowed="allowed: an odd number, so that the model itself is one of the points",
            )
        if asked.view == PLANE and asked.points > MOST:
            raise InputError(
                f"{asked.points} is not allowed", place="points", allowed=f"allowed: up to {MOST} a side of a plane"
            )
        return asked

    def folds(self, training: Training, *, quantized: bool = False) -> bool:
        """Batch norm stays as it is."""
        return False

    def settings(self) -> dict[str, Any]:
        return dict(settings_of(self))

    @property
    def size(self) -> int:
        """How many points there are."""
        return self.points**2 if self.view == PLANE else self.points

    @property
    def axis(self) -> list[float]:
        """The values of x (and y), in rising order."""
        low, high = (0.0, 1.0) if self.view == BETWEEN else (-self.radius, self.radius)
        last = self.points - 1
        return [(low * (last - number) + high * number) / last for number in range(self.points)]

    def coordinates(self, place: int) -> tuple[float, ...]:
        """x, and y of a plane, of the point at this place: i is place // points there, j the rest."""
        axis = self.axis
        if self.view == PLANE:
            return axis[place // self.points], axis[place % self.points]
        return (axis[place],)

    def asked_of(self, training: Training, *, quantized: bool = False) -> Landscape:
        """This, with the convention at its default that makes no difference for the model of `training`; what that was
        `quantized` to on images has no latent weights."""
        if quantized:
            return replace(self, perturb="quantized")
        plain = training.quantizer is None and self.view != BETWEEN
        return replace(self, perturb="latent") if plain else self

    def images(self, training: Training) -> int:
        """How many images decide. Raises InputError if the training set is smaller than the sample."""
        training.data.check_sample(self.samples, training.train_images, place="samples")
        return self.samples or training.train_images

    def identity(self, models: list[tuple[str, int, str]]) -> str:
        """32 hex digits that name this landscape of these models (job, attempt, hash of the model's file)."""
        asked = canonical(self)
        if self.view == BETWEEN:
            del asked["radius"]
        content = {"landscape": asked, "models": models}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_pair(one: Training, other: Training, asked: Landscape) -> None:
    """Raise InputError unless a straight line from one model to the other means something."""
    first, second = one.canonical(), other.canonical()
    for part in ("data", "model"):
        if first[part] != second[part]:
            names = [f"{training.model.label} on {training.data.title}" for training in (one, other)]
            raise InputError(
                f"{names[0]} and {names[1]} share no architecture",
                place="--between",
                allowed="two models of one architecture and data set",
            )
    if first["recipe"].get("val_fraction") != second["recipe"].get("val_fraction") or (
        one.val_images and one.recipe.data_seed != other.recipe.data_seed
    ):
        raise InputError("the two models were trained on different images", place="--between")
    if _levels(one) != _levels(other):
        raise InputError(
            "the activations of the two models are rounded to different levels, which have no line between them",
            place="--between",
            allowed="two models with activations of one bit width and one quantizer, or of none",
        )
    if asked.perturb == "latent" and rounding(one) != rounding(other):
        raise InputError(
            "the latent weights of models of different precisions have no common rounding between them",
            place="--between",
            allowed="--perturb quantized: the line between the weights that they compute with",
        )


def _levels(training: Training) -> dict[str, Any]:
    """What says how activations are rounded. It does not matter how their step sizes were trained."""
    found = PARTS["activation_quantizer"].settings(training.activation_quantizer)
    return {name: value for name, value in found.items() if name != "decay_activation_step"}


def rounding(training: Training) -> dict[str, Any]:
    """What says how weights are rounded. It does not matter how their step sizes were trained."""
    found = PARTS["quantizer"].settings(training.quantizer)
    return {name: value for name, value in found.items() if name != "decay_step"}
