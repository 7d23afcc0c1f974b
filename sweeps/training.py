"""The resolved configuration of one training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

from qsweep.sweeps.components import PARTS, known_settings, used_settings
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.methods import Method, Plain
from qsweep.sweeps.models import Model, published_name
from qsweep.sweeps.modules import Module
from qsweep.sweeps.optimizers import Optimizer, Sgd
from qsweep.sweeps.parts import Choice
from qsweep.sweeps.quantizers import FULL_PRECISION, ActivationQuantizer, Quantizer
from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.start import IMAGENET_CLASSES, IMAGENET_WEIGHTS, NO_WEIGHTS, WEIGHTS, Start
from qsweep.sweeps.targets import FOLDER, Fkd, Hard, Targets, Teacher
from qsweep.sweeps.transformers import Swin, Vit

UNKNOWN_OPERATIONS = 1_000_000
"""Taken for the operations of one forward pass over one image of a module: those of a small network."""
AUGMENTATIONS = {False: ("none", "crop-flip"), True: ("none", "resized-crop")}
"""By whether the data set is streamed."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: one component in each of the parts of `sweeps.components.PARTS`.

    Without a quantizer (None) its weights, or its activations, stay in full precision.
    """

    data: DataSet
    model: Model
    optimizer: Optimizer
    quantizer: Quantizer | None
    activation_quantizer: ActivationQuantizer | None
    method: Method
    targets: Targets
    recipe: Recipe
    start: Start

    @classmethod
    def from_settings(cls, given: Mapping[str, Any], *, place: str | None = None) -> Training:
        """The training that flat settings (`data`, `model`, `width`, `bits`, …) describe.

        Settings that this training does not use are ignored; `Training.uses` names the used ones. Raises
        InputError for a missing, unknown or impossible value.
        """
        training = cls(**components_of(given, place))
        training.check(place)
        return training

    def check(self, place: str | None) -> None:
        """Raise InputError for what each setting allows and all of them together don't, the weight
        quantizer apart."""
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
        self._check_activations(where)
        if 0 < self.recipe.epochs <= self.recipe.warmup_epochs:
            raise InputError(
                f"{self.recipe.warmup_epochs} of {self.recipe.epochs} epochs leave none after the warm-up",
                place=f"{where}warmup_epochs",
                allowed=f"allowed: up to {self.recipe.epochs - 1}",
            )
        if isinstance(self.optimizer, Sgd) and self.optimizer.nesterov and not self.optimizer.momentum:
            raise InputError("nesterov needs a momentum", place=f"{where}nesterov", allowed="allowed: false")
        self._check_data(where)
        self._check_targets(where)
        if isinstance(self.model, Vit | Swin):
            self.model.check(self.data, where)
        self._check_weights(where)
        ascent = getattr(self.method, "ascent_images", 0)
        for what, size, wholes, name in (
            ("batches", batch, (self.train_samples,), "batch_size"),
            ("parts", ascent, self._batches, "ascent_images"),
        ):
            if size and any(one % size == 1 or size == 1 for one in wholes) and self._norms_single_pixels:
                raise InputError(
                    f"{what} of {size} leave a last one of a single image, which batch norm can't normalize",
                    place=f"{where}{name}",
                    allowed="allowed: any other size",
                )

    @property
    def _batches(self) -> tuple[int, ...]:
        """The sizes that its batches have."""
        size, samples = self.recipe.batch_size, self.train_samples
        return tuple({min(size, samples), samples % size} - {0})

    @property
    def _norms_single_pixels(self) -> bool:
        return _norms_single_pixels(self.model, self.data)

    def _check_activations(self, where: str) -> None:
        chosen = self.activation_quantizer
        if chosen is not None and not getattr(self.model, "quantizes_activations", False):
            raise InputError(
                f"the activations of {self.model.label} can't be quantized",
                place=f"{where}activation_bits",
                allowed=f"allowed: {FULL_PRECISION} (not quantized), or another model",
            )

    def _check_data(self, where: str) -> None:
        allowed = ("none",) if self.data.form else AUGMENTATIONS[self.data.streamed]
        if self.data.form and not isinstance(self.model, Module):
            raise InputError(
                f"{self.model.title} takes square images, and {self.data.title} holds {self.data.shape}",
                place=f"{where}model",
                allowed="allowed: a module of yours, file:PATH.py:NAME",
            )
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

    def _check_targets(self, where: str) -> None:
        crops, augment = self.recipe.crops, self.recipe.augment
        if crops > 1 and augment == "none":
            allowed = "allowed: 1; more with an augment that cuts at random"
            raise InputError(f"{crops} crops of an image would be equal", place=f"{where}crops", allowed=allowed)
        if self.recipe.batch_size % crops:
            raise InputError(
                f"batches of {self.recipe.batch_size} do not hold whole images of {crops} crops",
                place=f"{where}crops",
                allowed="allowed: a divisor of batch_size",
            )
        if isinstance(self.targets, Hard):
            return
        if self.recipe.label_smoothing:
            raise InputError(
                "soft targets are not smoothed again", place=f"{where}label_smoothing", allowed="allowed: 0"
            )
        if isinstance(self.targets, Fkd):
            self._check_fkd(where)
        elif self.targets.teacher_top >= self.data.classes:
            raise InputError(
                f"{self.targets.teacher_top} of {self.data.classes} classes leave none to spread the rest over",
                place=f"{where}teacher_top",
                allowed=f"allowed: up to {self.data.classes - 1}",
            )
        elif self.targets.teacher_weights == NO_WEIGHTS:
            allowed = f"allowed: {IMAGENET_WEIGHTS}, or a name, whose file you give with --weights"
            raise InputError("a teacher has weights", place=f"{where}teacher_weights", allowed=allowed)
        elif (teacher := self.teacher) is not None:
            teacher._check_data(f"{where}teacher: ")
            if isinstance(teacher.model, Vit | Swin):
                teacher.model.check(self.data, f"{where}teacher: ")
            teacher._check_weights(f"{where}teacher: ")

    def _check_fkd(self, where: str) -> None:
        assert isinstance(self.targets, Fkd)
        if not FOLDER.fullmatch(self.targets.soft_labels):
            raise InputError(
                f"{self.targets.soft_labels!r} is not allowed",
                place=f"{where}soft_labels",
                allowed="allowed: the name of a folder in that of the data set, of letters, digits, '.', '_' and '-'",
            )
        if self.recipe.corrupt != "refuse":
            allowed = "allowed: refuse, because each image has soft labels of its own"
            raise InputError(
                f"{self.recipe.corrupt!r} is not for FKD's targets", place=f"{where}corrupt", allowed=allowed
            )
        if not self.data.streamed:
            allowed = "allowed: hard, teacher; or a data set of image files"
            raise InputError(f"FKD has no files of {self.data.title}", place=f"{where}targets", allowed=allowed)
        if self.recipe.augment != "resized-crop":
            allowed = "allowed: resized-crop, whose cuts its files hold"
            raise InputError(
                f"{self.recipe.augment!r} is not for FKD's targets", place=f"{where}augment", allowed=allowed
            )

    def _check_weights(self, where: str) -> None:
        name, place = self.start.weights, f"{where}weights"
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
                "stem = 'large', a mobilenet-v2 of width 32, or a swin of Swin-T's settings",
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
        return used_settings(tuple(part.choice(given) for part in PARTS.values()))

    @staticmethod
    def known() -> frozenset[str]:
        """The names of every setting of every component."""
        return known_settings()

    @property
    def bits(self) -> int:
        """Bit width of the inner layers' weights; 32 is full precision."""
        return FULL_PRECISION if self.quantizer is None else self.quantizer.bits

    @property
    def starts_from_weights(self) -> bool:
        """Whether it starts from weights that were trained before."""
        return self.start.weights != NO_WEIGHTS

    @property
    def teacher(self) -> Training | None:
        """The network that gives it its targets: as a training of no epochs, which starts from its weights."""
        if not isinstance(self.targets, Teacher):
            return None
        recipe = replace(self.recipe, epochs=0, milestones=(), warmup_epochs=0, crops=1, val_fraction=0.0, seed=0)
        return replace(
            self,
            model=self.targets.network,
            quantizer=None,
            activation_quantizer=None,
            method=Plain(),
            targets=Hard(),
            recipe=recipe,
            start=Start(weights=self.targets.teacher_weights),
        )

    @property
    def with_weights(self) -> tuple[Training, ...]:
        """The trainings whose weights it takes: its own, if it starts from some, and those of its teacher."""
        own = (self,) if self.starts_from_weights else ()
        return own if self.teacher is None else (*own, self.teacher)

    @property
    def weights_file(self) -> str:
        """Where a home keeps the weights that it starts from, in its folder of them."""
        return f"{self.start.weights}/{self.model.label}-{self.data.classes}.pth"

    @property
    def val_images(self) -> int:
        """How many of the training images are held out."""
        return round(self.recipe.val_fraction * self.data.train_images)

    @property
    def train_images(self) -> int:
        """How many images the model is trained on."""
        return self.data.train_images - self.val_images

    @property
    def train_samples(self) -> int:
        """What the model sees in an epoch: each of these images as often as it is cut."""
        return self.train_images * self.recipe.crops

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last batch may be smaller."""
        return -(-self.train_samples // self.recipe.batch_size)

    @property
    def operations(self) -> float:
        """Multiplications and additions of the whole training, a backward counted as two forward passes."""
        forward = sum(layer.operations for layer in self.model.layers(self.data)) or UNKNOWN_OPERATIONS
        evaluated = self.val_images + self.train_images * (self.recipe.select_by == "evaluated")
        passes = 3 * getattr(self.method, "passes", 1)
        images = (passes * self.train_samples + evaluated) * self.recipe.epochs
        found = forward * (images + self.data.train_images + self.data.test_images)
        if self.teacher is not None:
            layers = self.teacher.model.layers(self.data)
            found += sum(layer.operations for layer in layers) * self.train_samples * self.recipe.epochs
        return float(found)

    @property
    def initial_norm(self) -> float:
        """About the norm of the weights that it would begin with at random."""
        return math.sqrt(sum(layer.initial_square for layer in self.model.layers(self.data)))

    def settings(self) -> dict[str, Setting]:
        """Every setting by its flat name, in the order in which a person would list them."""
        return {**settings_of(CHOSEN, chosen_of(self)), **settings_of(SET, set_of(self))}

    def canonical(self) -> dict[str, Any]:
        """The content that a job's identity is the hash of: what has no effect is no part of it."""
        return {**content_of(CHOSEN, chosen_of(self)), **content_of(SET, set_of(self))}

    def common(self) -> tuple[Components, Components]:
        """What the members of a cohort have in common of the parts that are chosen, and of the others."""
        return common_of(CHOSEN, chosen_of(self)), common_of(SET, set_of(self))

    def shared(self) -> dict[str, Any]:
        """What the members of a cohort have in common: all but optimizer, quantizer and `seed`."""
        return common_content(*self.common())


Components: TypeAlias = tuple[Any, ...]
CHOSEN = tuple(name for name, part in PARTS.items() if isinstance(part, Choice))
"""The parts that are chosen. Most of a million jobs differ in the others only, so what follows from these is kept."""
SET = tuple(name for name in PARTS if name not in CHOSEN)
chosen_of: Callable[[Training], Components] = attrgetter(*CHOSEN)
set_of: Callable[[Training], Components] = attrgetter(*SET)


@lru_cache(maxsize=1024)
def settings_of(names: tuple[str, ...], components: Components) -> Mapping[str, Setting]:
    """The settings of these parts. The answer is kept: nobody may change it."""
    found: dict[str, Setting] = {}
    for name, component in zip(names, components, strict=True):
        found |= PARTS[name].settings(component)
    return found


def content_of(names: tuple[str, ...], components: Components) -> dict[str, Any]:
    """The canonical content of these parts, by their entries in an identity; None where there is no component."""
    by_name, found = dict(zip(names, components, strict=True)), dict[str, Any]()
    for name, component in by_name.items():
        part = PARTS[name]
        if not part.drops_out(component):
            content, entry = part.content(component, part.idle(component, by_name)), part.entry or name
            found[entry] = {**found[entry], **(content or {})} if entry in found else content
    return found


def components_of(given: Mapping[str, Any], place: str | None) -> dict[str, Any]:
    """What flat settings describe: the component of each part, settled beside the others. Raises InputError."""
    chosen = {name: part.build(given, place) for name, part in PARTS.items()}
    return {name: part.settled(chosen[name], chosen) for name, part in PARTS.items()}


def common_of(names: tuple[str, ...], components: Components) -> Components:
    """What the members of a cohort have in common of these parts."""
    return tuple(PARTS[name].common(one) for name, one in zip(names, components, strict=True))


def common_content(chosen: Components, others: Components) -> dict[str, Any]:
    """What the members of a cohort have in common, as content of its key."""
    found: dict[str, Any] = {}
    for name, one in zip((*CHOSEN, *SET), (*chosen, *others), strict=True):
        if content := PARTS[name].common_content(one):
            entry = PARTS[name].entry or name
            found[entry] = {**found.get(entry, {}), **content}
    return found


def different_needs(trainings: Iterable[Training]) -> list[Training]:
    """One training for each data set, each network that starts from weights, each teacher, each folder of soft labels
    and number of cuts, and each module."""
    needs: dict[tuple[DataSet, Targets, int, str, Model | None], Training] = {}
    for one in trainings:
        model = one.model if one.starts_from_weights or isinstance(one.model, Module) else None
        needs.setdefault((one.data, one.targets, one.recipe.crops, one.start.weights, model), one)
    return list(needs.values())


@lru_cache(maxsize=1024)  # asked for each of up to a million jobs
def _norms_single_pixels(model: Model, data: DataSet) -> bool:
    """Whether some batch norm sees one pixel an image, so that it can't normalize a single image."""
    return any(one.norms_single_pixels for one in model.layers(data))
