"""The resolved configuration of one training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from qsweep.sweeps.datasets import DATASETS, DataSet, ImageFolder, data_from, data_settings
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.models import MODELS, Model, published_name
from qsweep.sweeps.optimizers import OPTIMIZERS, Optimizer
from qsweep.sweeps.quantizers import BITS, FULL_PRECISION, QUANTIZERS, Quantizer
from qsweep.sweeps.settings import Rule, Setting, build, canonical, names_of, setting, settings_of

SEED = Rule(low=0, high=2**31 - 1)
EPOCH = Rule(low=1, high=100_000)
Family = TypeVar("Family")
NO_WEIGHTS = "none"
"""A training that starts from a fresh initialization."""
IMAGENET_WEIGHTS = "imagenet"
IMAGENET_CLASSES = 1000
WEIGHTS = re.compile(r"[a-z0-9][a-z0-9._-]*")
AUGMENTATIONS = {False: ("none", "crop-flip"), True: ("none", "resized-crop")}
"""By whether the data set is streamed."""


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
    model is not trained on them, but evaluated after each epoch. `augment` is a crop after padding by 4 pixels and a
    flip, or a crop of random place, size and shape (Szegedy et al. 2015) and a flip, for sets that are read from
    their files. `weights` name what the training starts from: `"imagenet"` is torchvision's IMAGENET1K_V1 of this
    network, any other name a file that the user gives at launch; with 0 `epochs` they are evaluated as they are.
    `corrupt = "skip"` leaves images out that can't be decoded (`workers.data.stream`); otherwise they end the
    training.
    """

    semantics: ClassVar[int] = 1

    epochs: int = setting(Rule(low=0, high=100_000))
    batch_size: int = setting(Rule(low=2, high=65_536))
    milestones: tuple[int, ...] = setting(EPOCH, default=())
    lr_factor: float = setting(Rule(above=0, high=1), default=0.1)
    augment: str = setting(Rule(choices=("none", "crop-flip", "resized-crop")), default="none")
    select_by: str = setting(Rule(choices=("running", "evaluated")), default="running")
    seed: int = setting(SEED, default=0)
    data_seed: int = setting(SEED, default=0)
    precision: str = setting(Rule(choices=("fp32", "tf32", "bf16")), default="fp32")
    val_fraction: float = setting(Rule(low=0, high=0.9), default=0.0, added_later=True)
    weights: str = setting(default=NO_WEIGHTS, added_later=True)
    corrupt: str = setting(Rule(choices=("refuse", "skip")), default="refuse", added_later=True)


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
            data=data_from(_family(DATASETS, given, "data", place), given, place),
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
        self._check_data(where)
        self._check_weights(where)
        if self.train_images % batch == 1 and _norms_single_pixels(self.model, self.data):
            raise InputError(
                f"batches of {batch} leave a last one of a single image, which batch norm can't normalize",
                place=f"{where}batch_size",
                allowed="allowed: any other size",
            )

    def _check_data(self, where: str) -> None:
        allowed = AUGMENTATIONS[self.data.streamed]
        if self.recipe.augment not in allowed:
            raise InputError(
                f"{self.recipe.augment!r} is not for {self.data.title}",
                place=f"{where}augment",
                allowed="allowed: " + ", ".join(allowed),
            )
        if self.recipe.corrupt != "refuse" and not self.data.streamed:
            raise InputError(
                f"{self.data.title} has no image files", place=f"{where}corrupt", allowed="allowed: refuse"
            )

    def _check_weights(self, where: str) -> None:
        name, place = self.recipe.weights, f"{where}weights"
        if not self.recipe.epochs and not self.starts_from_weights:
            allowed = "allowed: 1 or more, up to 100000; 0 of a training that starts from weights"
            raise InputError("0 is not allowed", place=f"{where}epochs", allowed=allowed)
        if not WEIGHTS.fullmatch(name):
            allowed = f"allowed: {NO_WEIGHTS}, {IMAGENET_WEIGHTS}, or a name in small letters, digits, '.', '_' and '-'"
            raise InputError(f"{name!r} is not allowed", place=place, allowed=allowed)
        if name != IMAGENET_WEIGHTS:
            return
        if published_name(self.model) is None:
            raise InputError(
                f"torchvision has no such weights of {self.model.label}",
                place=place,
                allowed="allowed: another name, whose file you give with --weights; or a resnet of width 64 with "
                "stem = 'large', or a mobilenet-v2 of width 32",
            )
        if self.data.classes != IMAGENET_CLASSES:
            raise InputError(
                f"torchvision's weights have {IMAGENET_CLASSES:,} classes, {self.data.title} has {self.data.classes}",
                place=place,
                allowed="allowed: another name, whose file you give with --weights",
            )

    @staticmethod
    def uses(given: Mapping[str, Any]) -> frozenset[str]:
        """The names of the settings that `from_settings` reads, given these families."""
        folder, full = given.get("data") == ImageFolder.name, given.get("bits") == FULL_PRECISION
        families = (given.get(key, "lsq") for key in ("model", "optimizer", "quantizer"))
        return _used(folder, full, *map(str, families))

    @staticmethod
    def known() -> frozenset[str]:
        """The names of every setting of every family."""
        families = [*MODELS.values(), *OPTIMIZERS.values(), *QUANTIZERS.values(), Recipe, ImageFolder]
        return frozenset(("data", "model", "optimizer", "quantizer")).union(*(names_of(one) for one in families))

    @property
    def bits(self) -> int:
        """Bit width of the inner layers' weights; 32 is full precision."""
        return FULL_PRECISION if self.quantizer is None else self.quantizer.bits

    @property
    def starts_from_weights(self) -> bool:
        """Whether it starts from weights that were trained before."""
        return self.recipe.weights != NO_WEIGHTS

    @property
    def weights_file(self) -> str:
        """Where a home keeps the weights that it starts from, in its folder of them."""
        return f"{self.recipe.weights}/{self.model.label}-{self.data.classes}.pth"

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
        return _component_settings(self.data, self.model, self.optimizer, self.quantizer) | settings_of(self.recipe)

    def canonical(self) -> dict[str, Any]:
        """The content that a job's identity is the hash of: what has no effect is no part of it."""
        parts = component_contents(self.data, self.model, self.optimizer, self.quantizer)
        return {**parts, "recipe": recipe_content(self.recipe)}

    def shared(self) -> dict[str, Any]:
        """What the members of a cohort have in common: all but optimizer, quantizer and `seed`."""
        return shared_content(self.data, self.model, self.recipe)


@lru_cache(maxsize=1024)  # asked of each point of a grid
def _used(folder: bool, full: bool, model: str, optimizer: str, quantizer: str) -> frozenset[str]:
    """What `Training.uses` answers for these families, and a folder of images or full precision."""
    families: list[type[Any] | None] = [Recipe, MODELS.get(model), OPTIMIZERS.get(optimizer)]
    families += [ImageFolder] if folder else []
    families += [] if full else [QUANTIZERS.get(quantizer)]
    own = ("data", "model", "optimizer", "quantizer", "bits")
    return frozenset(own).union(*(names_of(one) for one in families if one is not None))


@lru_cache(maxsize=1024)  # most of a million jobs differ in the recipe only
def _component_settings(
    data: DataSet, model: Model, optimizer: Optimizer, quantizer: Quantizer | None
) -> dict[str, Setting]:
    """The settings of everything but the recipe. The answer is kept: nobody may change it."""
    flat: dict[str, Setting] = {"data": data.name, **data_settings(data), "model": model.name, **settings_of(model)}
    flat |= {"optimizer": optimizer.name, **settings_of(optimizer)}
    if quantizer is None:
        return flat | {"bits": FULL_PRECISION}
    return flat | {"bits": quantizer.bits, "quantizer": quantizer.name, **settings_of(quantizer)}


def component_contents(
    data: DataSet, model: Model, optimizer: Optimizer, quantizer: Quantizer | None
) -> dict[str, Mapping[str, Any] | None]:
    """The canonical content of everything but the recipe."""
    return {
        "data": data_content(data),
        "model": named_content(model),
        "optimizer": named_content(optimizer),
        "quantizer": quantizer_content(quantizer, decays=optimizer.weight_decay != 0),
    }


def named_content(component: Model | Optimizer) -> dict[str, Any]:
    """The canonical content of a model or an optimizer."""
    return {"name": component.name, **canonical(component)}


def quantizer_content(quantizer: Quantizer | None, *, decays: bool) -> dict[str, Any] | None:
    """The canonical content of a quantizer, beside an optimizer that decays weights or does not."""
    if quantizer is None:
        return None
    content = {"name": quantizer.name, **canonical(quantizer)}
    if not decays:
        del content["decay_step"]
    return content


def different_needs(trainings: Iterable[Training]) -> list[Training]:
    """One training for each data set, and for each network that starts from weights."""
    needs: dict[tuple[DataSet, str, Model | None], Training] = {}
    for one in trainings:
        needs.setdefault((one.data, one.recipe.weights, one.model if one.starts_from_weights else None), one)
    return list(needs.values())


def shared_content(data: DataSet, model: Model, recipe: Recipe) -> dict[str, Any]:
    """The canonical content of trainings that may differ in optimizer, quantizer and `seed`."""
    content = recipe_content(recipe)
    del content["seed"]
    return {"data": data_content(data), "model": {"name": model.name, **canonical(model)}, "recipe": content}


def data_content(data: DataSet) -> dict[str, Any]:
    """The canonical content of a data set."""
    content: dict[str, Any] = {"name": data.name, "fingerprint": data.fingerprint}
    return {**content, "size": data.size} if data.name == ImageFolder.name else content


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """The canonical content of a recipe: what has no effect is no part of it."""
    content: dict[str, Any] = canonical(recipe)
    content["milestones"] = tuple(one for one in recipe.milestones if one < recipe.epochs)
    if not content["milestones"]:
        del content["lr_factor"]
    return content


@lru_cache(maxsize=1024)  # asked for each of up to a million jobs
def _norms_single_pixels(model: Model, data: DataSet) -> bool:
    """Whether some batch norm sees one pixel an image, so that it can't normalize a single image."""
    return any(one.norm and one.side == 1 for one in model.layers(data))


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
