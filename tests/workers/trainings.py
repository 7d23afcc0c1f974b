"""Trainings for tests, from settings with short defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.components import PARTS
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.models import NETWORKS

CONVOLUTIONAL = tuple(form for form in Form if form is not Form.VMAP)
UNCOMPILED = tuple(form for form in CONVOLUTIONAL if not form.compiled)
RATES = {"sgd": 0.1, "adam": 0.01, "rmsprop": 0.002}
# Deep networks on the edge of stability multiply a rounding error in every step, so ResNets are compared at small
# rates, and without the division by nearly nothing in which Adam and RMSprop do the same.
CALM: dict[str, dict[str, Any]] = {"sgd": {}, "adam": {"epsilon": 1e-3}, "rmsprop": {"epsilon": 1e-3}}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit": {"patch": 2, "width": 8, "depth": 2, "heads": 2},
    "swin": {"patch": 1, "width": 8, "depths": [2, 1], "heads": 2, "window_size": 4},
}
"""Small ones, whose windows are shifted in one block."""


def training(**settings: Any) -> Training:
    """A small NiN on digits with everything that `settings` leaves open at a default."""
    base: dict[str, Any] = {
        "data": "digits",
        "model": "nin",
        "width": 8,
        "depth": 3,
        "channels_per_width": 2,
        "optimizer": "sgd",
        "weight_decay": 1e-2,
        "bits": 32,
        "epochs": 2,
        "batch_size": 150,
        "milestones": [1],
    }
    if settings.get("model") in TRANSFORMERS:
        base = {name: value for name, value in base.items() if name not in ("width", "depth", "channels_per_width")}
        base |= TRANSFORMERS[settings["model"]]
    elif settings.get("model", "nin") != "nin":
        base |= {"depth": {"resnet": 18, "vgg": 11, "cifar-resnet": 20}.get(settings["model"], 0), "width": 4}
        del base["channels_per_width"]
    base |= settings
    base.setdefault("learning_rate", RATES.get(base["optimizer"], 0.01))
    return Training.from_settings(base)


COMPONENTS = tuple(
    (part, name)
    for part in ("model", "optimizer", "quantizer", "activation_quantizer", "method", "targets")
    for name in PARTS[part].components
    if name != "fkd"  # it takes files, and its steps are those of a teacher
)
"""Every component of the table that has a part in a training step, by its part."""
TEACHER: dict[str, Any] = {
    "teacher": "nin",
    "teacher_width": 5,
    "teacher_depth": 2,
    "teacher_channels_per_width": 2,
    "teacher_weights": "large",
    "teacher_top": 3,
}
"""A network of another shape, whose weights a test keeps as `large`."""
NEEDED: dict[str, Any] = {"rho": 0.05, **TEACHER}
"""Settings without a default, of any component."""


def with_component(part: str, name: str, **settings: Any) -> Training:
    """A small training in 4 bits with this component of the table."""
    if name == Module.name:
        return _of_module(**settings)
    asked = {"bits": 4, part: name, **settings}
    if part == "activation_quantizer":
        asked["activation_bits"] = 4
    needed = NEEDED if name == "teacher" else {one: NEEDED[one] for one in NEEDED if one == "rho" and part == "method"}
    return training(**{**needed, **asked})


def _of_module(**settings: Any) -> Training:
    """A network that a library builds and torch calls, as a user's would be."""
    base = {"data": "digits", "model": "torchvision:shufflenet_v2_x0_5", "optimizer": "sgd", "learning_rate": 0.01}
    return Training.from_settings({**base, "bits": 4, "weight_decay": 1e-3, "epochs": 2, "batch_size": 150, **settings})


def model_of(training: Training) -> dict[str, Tensor]:
    """A model of this training as it begins, with statistics that are not those of any images."""
    layout = NETWORKS[training.model.name](training.model, training.data).layout
    model = dict(layout.named(layout.initial_parameters(1), layout.initial_statistics()))
    draws = torch.Generator().manual_seed(2)
    for name, tensor in model.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.5, generator=draws)
        elif name.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.5, 2, generator=draws)
        elif name.endswith("norm.bias"):
            tensor.normal_(0, 0.2, generator=draws)
    return model


def first(images: Images, train: int, test: int) -> Images:
    """So many images of a set: of as many steps, with a batch in proportion, each is done sooner."""
    return dataclasses.replace(
        images,
        data=dataclasses.replace(images.data, train_images=train, test_images=test),
        train_images=images.train_images[:train],
        train_labels=images.train_labels[:train],
        test_images=images.test_images[:test],
        test_labels=images.test_labels[:test],
    )


def on(images: Images, trainings: Sequence[Training]) -> list[Training]:
    """The same trainings on these images."""
    return [dataclasses.replace(one, data=images.data) for one in trainings]


def mixture(**settings: Any) -> list[Training]:
    """Every optimizer with every kind of width, under seeds, decays and rates of their own."""
    return [
        training(
            optimizer=optimizer,
            bits=bits,
            learning_rate=RATES[optimizer] / (1 + number),
            weight_decay=1e-2 * (1 + number),
            seed=10 * number + bits,
            decay_step=bits == 4,
            **settings,
        )
        for optimizer in RATES
        for number, bits in enumerate((32, 8, 4, 2))
    ]
