"""SAM, ASAM and SAQ's cases: against plain modules in double precision, alone and beside each other, and where they
meet plain training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.engine import Pass
from qsweep.workers.forms import Form
from qsweep.workers.methods.two_passes import TwoPasses
from qsweep.workers.models.layout import Layout, ModuleSpec, Role, TensorSpec
from tests.workers.plain import named
from tests.workers.sharp import SharpTraining
from tests.workers.test_equivalence import tensors
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.trainings import RATES, UNCOMPILED, on, training

CPU = torch.device("cpu")
EVERY: list[dict[str, Any]] = [
    {"method": "sam"},
    {"method": "sam", "ball_steps": True},
    {"method": "sam", "bn_second_pass": True},
    {"method": "asam"},
    {"method": "asam", "asam": "saq", "ball_steps": True, "eta": 0.1},
    {"method": "saq1"},
    {"method": "saq1", "case1_gradient": "float"},
    {"method": "saq1", "ball_steps": True},
    {"method": "saq2"},
    {"method": "saq3"},
    {"method": "saq3", "ball_steps": True, "bn_second_pass": True},
]
"""Each method with each of its options."""
SHORT: dict[str, Any] = {"batch_size": 104, "epochs": 2, "milestones": []}


def methods(images: Images, bits: Sequence[int] = (32, 4, 2), rho: float = 0.2, **settings: Any) -> list[Training]:
    """Every method in every width, each once, with radii of their own."""
    found = [
        training(bits=width, rho=rho * (1 + number % 3), seed=number, **one, **{**SHORT, **settings})
        for number, one in enumerate(EVERY)
        for width in bits
    ]
    return on(images, found)


def cohort_of(trainings: Sequence[Training], images: Images, **more: Any) -> Cohort:
    return Cohort(trainings, images, **{"slots": len(trainings), "form": Form.GATHER, "device": CPU, **more})


@pytest.mark.parametrize("form", [Form.GATHER, Form.LOOP])
def test_every_method_equals_plain_modules_in_double_precision(few: Images, form: Form) -> None:
    trainings = methods(few, learning_rate=0.02)
    cohort = cohort_of(trainings, few, form=form, dtype=torch.float64)
    plain = [SharpTraining(one) for one in trainings]
    batches = Batches(few, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    losses = [0.0] * len(plain)
    for number in range(trainings[0].steps_per_epoch):
        losses = [sum_ + one.step(*batches.batch(number)) for sum_, one in zip(losses, plain, strict=True)]
        cohort.step()
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        found, wanted = tensors(cohort, member, one), named(reference.net, one)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=f"{one.method} {one.bits} {name}")
        mean = losses[member] / one.steps_per_epoch
        assert cohort.history(member)[0]["train_loss"] == pytest.approx(mean, abs=1e-10)
