"""Trainings for tests, from settings with short defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.forms import Form

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
