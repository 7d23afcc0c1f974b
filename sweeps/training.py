"""The resolved configuration of one training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from sweeps.datasets import DATASETS, DataSet
from sweeps.errors import InputError, nearest
from sweeps.models import MODELS, Model
from sweeps.optimizers import OPTIMIZERS, Optimizer
from sweeps.quantizers import BITS, FULL_PRECISION, QUANTIZERS, Quantizer
from sweeps.settings import Rule, Setting, build, canonical, names_of, setting, settings_of

SEED = Rule(low=0, high=2**31 - 1)
EPOCH = Rule(low=1, high=100_000)
Family = TypeVar("Family")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever the model and the optimizer.

    The learning rate is multiplied by `lr_factor` after each of the `milestones` (in epochs). The model kept
    is that of the epoch with the lowest training loss: with `select_by = "running"` the mean over the
    epoch's steps, with `"evaluated"` a full eval-mode pass after each epoch. `seed` draws the
    initialization, `data_seed` the order and the augmentation of the data. `precision` is that of the
    training pass: `"tf32"` rounds the factors of its products to 10 bits, `"bf16"` its weights and activations
    to 7; parameters, optimizer, batch norm's statistics and evaluation stay in single precision.
    `val_fraction` of the training images, of each class alike and drawn by `data_seed`, are held out: the
    model is not trained on them, but evaluated after each epoch.
    """

    semantics: ClassVar[int] = 1

    epochs: int = setting(EPOCH)
    batch_size: int = setting(Rule(low=2, high=65_536))
    milestones: tuple[int, ...] = setting(EPOCH, default=())
    lr_factor: float = setting(Rule(above=0, high=1), default=0.1)
    augment: str = setting(Rule(choices=("none", "crop-flip")), default="none")
    select_by: str = setting(Rule(choices=("running", "evaluated")), default="running")
    seed: int = setting(SEED, default=0)
    data_seed: int = setting(SEED, default=0)
    precision: str = setting(Rule(choices=("fp32", "tf32", "bf16")), default="fp32")
    val_fraction: float = setting(Rule(low=0, high=0.9), default=0.0, added_later=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: data, model, quantizer (None is full precision), optimizer and recipe."""

    data: DataSet
    model: Model
    quantizer: Quantizer | None
    optimizer: Optimizer
    recipe: Recipe

    @classmethod
    def from_settings(cls, given: Mapping[str, Any], *, place: str | None = None) -> Training:
        """The training that flat settings (`data`, `model`, `width`, `bits`, …) describe.

        Settings that this training does not use are ignored; `Training.uses` names the used ones. Raises
        InputError for a missing, unknown or impossible value.
        """
        training = cls(
            data=_family(DATASETS, given, "data", place),
            model=build(_family(MODELS, given, "model", place), given, place=place),
            quantizer=_quantizer(given, place),
            optimizer=build(_family(OPTIMIZERS, given, "optimizer", place), given, place=place),
            recipe=build(Recipe, given, place=place),
        )
        training._check(place)
        return training

    def _check(self, place: str | None) -> None:
        """Raise InputError for what each setting allows and all of them together don't."""
        where = f"{place}: " if place else ""
        milestones, batch, held_out = self.recipe.milestones, self.recipe.batch_size, self.val_images
        if list(milestones) != sorted(set(milestones)):
            allowed = "allowed: each milestone once, in rising order"
            raise InputError(f"{list(milestones)} is not allowed", place=f"{where}milestones", allowed=allowed)
        if self.recipe.val_fraction and held_out < self.data.classes:
            least = self.data.classes / self.data.train_images
            raise InputError(
                f"{self.recipe.val_fraction} holds out {held_out} images of {self.data.classes} classes",
                place=f"{where}val_fraction",
                allowed=f"allowed: 0 (none), or {least:.3g} and more, so that each class is among them",
            )
        layers = self.model.layers(self.data)
        if self.train_images % batch == 1 and any(one.norm and one.side == 1 for one in layers):
            raise InputError(
                f"batches of {batch} leave a last one of a single image, which batch norm can't normalize",
                place=f"{where}batch_size",
                allowed="allowed: any other size",
            )

    @staticmethod
    def uses(given: Mapping[str, Any]) -> frozenset[str]:
        """The names of the settings that `from_settings` reads, given these families."""
        names = {"data", "model", "optimizer", "quantizer", "bits", *names_of(Recipe)}
        used: dict[str, Mapping[str, type[Any]]] = {"model": MODELS, "optimizer": OPTIMIZERS}
        if given.get("bits") != FULL_PRECISION:
            used["quantizer"] = QUANTIZERS
        for key, families in used.items():
            family = families.get(given.get(key, "lsq"))
            names.update(names_of(family) if family else ())
        return frozenset(names)

    @staticmethod
    def known() -> frozenset[str]:
        """The names of every setting of every family."""
        families = [*MODELS.values(), *OPTIMIZERS.values(), *QUANTIZERS.values(), Recipe]
        return frozenset(("data", "model", "optimizer", "quantizer")).union(*(names_of(one) for one in families))

    @property
    def bits(self) -> int:
        """Bit width of the inner layers' weights; 32 is full precision."""
        return FULL_PRECISION if self.quantizer is None else self.quantizer.bits

    @property
    def val_images(self) -> int:
        """How many of the training images are held out."""
        return round(self.recipe.val_fraction * self.data.train_images)

    @property
    def train_images(self) -> int:
        """How many images the model is trained on."""
        return self.data.train_images - self.val_images

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last batch may be smaller."""
        return -(-self.train_images // self.recipe.batch_size)

    @property
    def operations(self) -> float:
        """Multiplications and additions of the whole training, a backward counted as two forward passes."""
        forward = sum(layer.operations for layer in self.model.layers(self.data))
        passes = 3 + (self.recipe.select_by == "evaluated")
        an_epoch = passes * self.train_images + self.val_images
        images = an_epoch * self.recipe.epochs + self.data.train_images + self.data.test_images
        return float(forward * images)

    def settings(self) -> dict[str, Setting]:
        """Every setting by its flat name, in the order in which a person would list them."""
        flat: dict[str, Setting] = {"data": self.data.name, "model": self.model.name}
        flat |= settings_of(self.model)
        flat |= {"optimizer": self.optimizer.name, **settings_of(self.optimizer), "bits": self.bits}
        if self.quantizer is not None:
            flat |= {"quantizer": self.quantizer.name, **settings_of(self.quantizer)}
        return flat | settings_of(self.recipe)

    def canonical(self) -> dict[str, Any]:
        """The content that a job's identity is the hash of: what has no effect is no part of it."""
        parts = component_contents(self.data, self.model, self.optimizer, self.quantizer)
        return {**parts, "recipe": recipe_content(self.recipe)}

    def shared(self) -> dict[str, Any]:
        """What the members of a cohort have in common: all but optimizer, quantizer and `seed`."""
        return shared_content(self.data, self.model, self.recipe)


def component_contents(
    data: DataSet, model: Model, optimizer: Optimizer, quantizer: Quantizer | None
) -> dict[str, Mapping[str, Any] | None]:
    """The canonical content of everything but the recipe."""
    quantized = None if quantizer is None else {"name": quantizer.name, **canonical(quantizer)}
    if quantized is not None and optimizer.weight_decay == 0:
        del quantized["decay_step"]
    return {
        "data": _data_content(data),
        "model": {"name": model.name, **canonical(model)},
        "optimizer": {"name": optimizer.name, **canonical(optimizer)},
        "quantizer": quantized,
    }


def shared_content(data: DataSet, model: Model, recipe: Recipe) -> dict[str, Any]:
    """The canonical content of trainings that may differ in optimizer, quantizer and `seed`."""
    content = recipe_content(recipe)
    del content["seed"]
    return {"data": _data_content(data), "model": {"name": model.name, **canonical(model)}, "recipe": content}


def _data_content(data: DataSet) -> dict[str, Any]:
    return {"name": data.name, "fingerprint": data.fingerprint}


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """The canonical content of a recipe: what has no effect is no part of it."""
    content: dict[str, Any] = canonical(recipe)
    content["milestones"] = tuple(one for one in recipe.milestones if one < recipe.epochs)
    if not content["milestones"]:
        del content["lr_factor"]
    return content


def _family(families: Mapping[str, Family], given: Mapping[str, Any], key: str, place: str | None) -> Family:
    where = f"{place}: {key}" if place else key
    if key not in given:
        raise InputError(f"{key} is missing", place=place, allowed="allowed: " + ", ".join(families))
    name = given[key]
    if not isinstance(name, str) or name not in families:
        raise InputError(f"{name!r} is not known", place=where, allowed=nearest(str(name), families))
    return families[name]


def _quantizer(given: Mapping[str, Any], place: str | None) -> Quantizer | None:
    where = f"{place}: bits" if place else "bits"
    if "bits" not in given:
        raise InputError("bits is missing", place=place, allowed=BITS.allowed())
    bits = given["bits"]
    if isinstance(bits, bool) or not isinstance(bits, int) or not BITS.admits(bits):
        raise InputError(f"{bits!r} is not allowed", place=where, allowed=BITS.allowed())
    quantizer = build(
        _family(QUANTIZERS, {"quantizer": "lsq", **given}, "quantizer", place),
        {**given, "bits": 8 if bits == FULL_PRECISION else bits},
        place=place,
    )
    return None if bits == FULL_PRECISION else quantizer
