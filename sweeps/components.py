"""The components of a training, in one table: `PARTS`.

A training has one component in each part: its data, network, optimizer, weight quantizer, activation quantizer, method
and targets; and a recipe and a start. What a sweep may set, the columns of the results, what counts for a job's
identity, which jobs may be trained side by side, what a trained model is called and what computes it follow from the
rows here (`sweeps.parts` says how). Nothing else in qsweep lists components.

`register` adds one. The files that the environment variable `QSWEEP_COMPONENTS` names are run when this is imported, to
do so in every process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsweep.sweeps.datasets import Arrays, ImageFolder, data_content
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.methods import Asam, Plain, Sam, Saq1, Saq2, Saq3, settled
from qsweep.sweeps.models import CifarResNet, MobileNet, MobileNetV2, NiN, ResNet, Vgg
from qsweep.sweeps.modules import Module
from qsweep.sweeps.optimizers import Adam, AdamW, RmsProp, Sgd
from qsweep.sweeps.parts import Choice, Component, DataChoice, ModelChoice, Part, QuantizerChoice, TargetsChoice
from qsweep.sweeps.quantizers import FULL_PRECISION, Liq, LiqActivations, Lsq, LsqActivations, Vvtq, VvtqActivations
from qsweep.sweeps.recipe import Recipe, recipe_content
from qsweep.sweeps.start import Start
from qsweep.sweeps.targets import Fkd, Hard, Teacher
from qsweep.sweeps.transformers import Swin, Vit

FILES = "QSWEEP_COMPONENTS"
"""Names files with further components, separated as in `PATH`."""

CONVOLUTIONS = "qsweep.workers.models.graph:ConvNetwork"
CONVOLUTIONAL = (NiN, ResNet, MobileNet, MobileNetV2, Vgg, CifarResNet)


def _by_name(*components: Component) -> dict[str, Component]:
    return {one.name: one for one in components}


def _family(settings: type[Any], implementation: str) -> Component:
    return Component(name=settings.name, settings=settings, implementation=implementation)


def _weights(settings: type[Any], implementation: str) -> Component:
    return Component(
        name=settings.name,
        settings=settings,
        implementation=implementation,
        label=settings.name.upper(),
        idle=lambda chosen: () if chosen["optimizer"].weight_decay else ("decay_step",),
    )


def _activations(settings: type[Any], implementation: str) -> Component:
    return Component(
        name=settings.name,
        settings=settings,
        implementation=implementation,
        label=settings.name.upper(),
        idle=lambda chosen: () if chosen["optimizer"].weight_decay else ("decay_activation_step",),
        kind=lambda value: f"{value.name}, images too" if value.quantizes_images else value.name,
    )


def _two_passes(settings: type[Any]) -> Component:
    return Component(
        name=settings.name,
        settings=settings,
        implementation="qsweep.workers.methods.two_passes:TwoPasses",
        label=settings.name.upper(),
        kind=_passes_kind,
    )


def _passes_kind(method: Any) -> str:
    return f"two-passes of {method.ascent_images}" if method.ascent_images else "two-passes"


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        DataChoice(
            name="data",
            components=_by_name(
                Component(name="digits", implementation="qsweep.workers.data.digits:read_digits"),
                Component(name="cifar10", implementation="qsweep.workers.data.cifar:read_cifar"),
                Component(name="cifar100", implementation="qsweep.workers.data.cifar:read_cifar"),
                Component(name="imagenet", implementation="qsweep.workers.data.folders:read_files"),
                Component(
                    name=ImageFolder.name, settings=ImageFolder, implementation="qsweep.workers.data.folders:read_files"
                ),
                Component(name=Arrays.name, settings=Arrays, implementation="qsweep.workers.data.arrays:read_arrays"),
            ),
            content_of=data_content,
        ),
        ModelChoice(
            name="model",
            components=_by_name(
                *(_family(one, CONVOLUTIONS) for one in CONVOLUTIONAL),
                _family(Vit, "qsweep.workers.models.vit:VitNetwork"),
                _family(Swin, "qsweep.workers.models.swin:SwinNetwork"),
                Component(name=Module.name, implementation="qsweep.workers.models.named:network_of_module"),
            ),
        ),
        Choice(
            name="optimizer",
            components=_by_name(
                _family(Sgd, "qsweep.workers.optimizers:SgdSteps"),
                _family(Adam, "qsweep.workers.optimizers:AdamSteps"),
                _family(RmsProp, "qsweep.workers.optimizers:RmsPropSteps"),
                _family(AdamW, "qsweep.workers.optimizers:AdamWSteps"),
            ),
            in_cohort="any",
        ),
        QuantizerChoice(
            name="quantizer",
            components=_by_name(
                _weights(Lsq, "qsweep.workers.quantizers.lsq:LsqWeights"),
                _weights(Liq, "qsweep.workers.quantizers.liq:LiqWeights"),
                Component(
                    name=Vvtq.name,
                    settings=Vvtq,
                    implementation="qsweep.workers.quantizers.vvtq:VvtqWeights",
                    label="VVTQ",
                ),
            ),
            default=Lsq.name,
            what="weights",
            width="bits",
            full=FULL_PRECISION,
            in_cohort="any",
            names_rows=True,
        ),
        QuantizerChoice(
            name="activation_quantizer",
            components=_by_name(
                _activations(LsqActivations, "qsweep.workers.quantizers.activations:LsqSignals"),
                _activations(LiqActivations, "qsweep.workers.quantizers.activations:LiqSignals"),
                Component(
                    name=VvtqActivations.name,
                    settings=VvtqActivations,
                    implementation="qsweep.workers.quantizers.vvtq:VvtqSignals",
                    label="VVTQ",
                ),
            ),
            default=LsqActivations.name,
            added_later=True,
            what="activations",
            width="activation_bits",
            full=FULL_PRECISION,
            in_cohort="same kind",
            names_rows=True,
        ),
        Choice(
            name="method",
            components=_by_name(
                _family(Plain, "qsweep.workers.methods.plain:Plain"),
                *(_two_passes(one) for one in (Sam, Asam, Saq1, Saq2, Saq3)),
            ),
            default=Plain.name,
            added_later=True,
            in_cohort="same kind",
            names_rows=True,
            settled=lambda method, chosen: settled(method, chosen["quantizer"], chosen["recipe"]),
        ),
        TargetsChoice(
            name="targets",
            components=_by_name(
                Component(name=Hard.name, settings=Hard),
                Component(name=Teacher.name, settings=Teacher, label="soft targets"),
                Component(name=Fkd.name, settings=Fkd, label="FKD"),
            ),
            networks={one.name: one for one in (*CONVOLUTIONAL, Vit, Swin)},
            default=Hard.name,
            added_later=True,
            names_rows=True,
            settled=lambda targets, chosen: targets if chosen["recipe"].epochs else Hard(),
        ),
        Part(
            name="recipe",
            components=_by_name(Component(name="recipe", settings=Recipe)),
            apart=("seed",),
            content_of=recipe_content,
        ),
        Part(
            name="start",
            components=_by_name(
                Component(name="start", settings=Start, implementation="qsweep.workers.weights:start_of")
            ),
            entry="recipe",
        ),
    )
}
"""In the order in which a person lists what a training is made of."""


def register(part: str, component: Component) -> None:
    """Add a component to a part: before anything else of qsweep is imported, in every process.

    Raises InputError if its name is taken, or one of its settings has another meaning elsewhere.
    """
    place = f"{part} {component.name}"
    row = PARTS[part]
    if component.name in row.components:
        raise InputError(f"there is a {part} {component.name!r} already")
    elsewhere = {name for other in PARTS.values() if other is not row for name in other.known()}
    if taken := sorted(elsewhere.intersection(component.names)):
        raise InputError(f"{taken[0]!r} is a setting of another part", place=place)
    known = row.columns()
    if odd := [name for name, kind in component.columns().items() if known.get(name, kind) != kind]:
        raise InputError(f"{odd[0]!r} is of another type than in other components of this part", place=place)
    row.components[component.name] = component
    used_settings.cache_clear()


@functools.lru_cache(maxsize=1024)  # asked of each point of a grid
def used_settings(choices: tuple[str | None, ...]) -> frozenset[str]:
    """The settings that are read where these components are chosen, one for each part."""
    return frozenset().union(*(part.used(one) for part, one in zip(PARTS.values(), choices, strict=True)))


def known_settings() -> frozenset[str]:
    """Every setting of every component."""
    return frozenset().union(*(part.known() for part in PARTS.values()))


def naming_settings() -> frozenset[str]:
    """The settings of the parts that trained models are called by."""
    return frozenset().union(*(part.known() for part in PARTS.values() if part.names_rows))


class Implementations(dict[str, Any]):
    """What computes the components of one part, by their names; imported when it is first asked for."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._components: Mapping[str, Component] = PARTS[part].components

    def __missing__(self, name: str) -> Any:
        module, _, attribute = self._components[name].implementation.partition(":")
        self[name] = getattr(importlib.import_module(module), attribute)
        return self[name]


def _run_files(paths: str) -> None:
    """Run the files of further components; each is a module of its file's name."""
    for path in map(Path, filter(None, paths.split(os.pathsep))):
        if path.stem in sys.modules:
            raise InputError("a module of this name is imported already", place=f"{FILES}: {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InputError("there is no such Python file", place=f"{FILES}: {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{type(error).__name__}: {error}", place=f"{FILES}: {path}") from error


_run_files(os.environ.get(FILES, ""))
