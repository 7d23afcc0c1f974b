"""Quantized activations: against plain modules in double precision, alone and beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.forms import Form
from qsweep.workers.models.layout import Role
from tests.workers.plain import PlainTraining, named
from tests.workers.test_equivalence import tensors
from tests.workers.trainings import first, on, training

CPU = torch.device("cpu")
FAMILIES: dict[str, dict[str, Any]] = {
    "nin": {},
    "resnet": {},
    "cifar-resnet": {"depth": 20, "preact": True},
    "mobilenet": {},
    "mobilenet-v2": {"stem": "small"},
    "vgg": {},
}
RATE = 0.01


WIDTHS = (
    (2, 4, "saq"),
    (3, 3, "genie"),
    (4, 32, "saq"),
    (5, 5, "genie"),
    (6, 2, "saq"),
    (7, 7, "genie"),
    (8, 8, "saq"),
)
"""Bits of activations and weights, and whose custom the outer activations follow."""


def noise(images: Images) -> Images:
    """Random pictures: those of digits have corners in which channels are constant, and maxima are ties."""
    drawn = torch.randint(0, 17, images.train_images.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(images, train_images=drawn.to(images.train_images.dtype))


def cohort_of(trainings: Sequence[Training], images: Images, **more: Any) -> Cohort:
    return Cohort(trainings, images, **{"slots": len(trainings), "form": Form.GATHER, "device": CPU, **more})


def moved_norms(row: Tensor, cohort: Cohort, seed: int) -> Tensor:
    """Parameters whose γ and β are apart from 1 and 0: a channel that is constant over a batch then lies at no kink."""
    drawn = torch.Generator().manual_seed(seed)
    for span in cohort.layout.spans_of(Role.SCALE, Role.SHIFT):
        place = span.of(row[None])
        place += 0.2 + 0.1 * torch.rand(place.shape, generator=drawn, dtype=row.dtype)
    return row


def put(net: torch.nn.Module, one: Training, tensors: Mapping[str, Tensor]) -> None:
    for name, place in named(net, one).items():  # type: ignore[arg-type]
        place.copy_(tensors[name])


@pytest.mark.parametrize(
    ("model", "form", "quantizer", "activations"),
    [
        *((model, Form.GATHER, "lsq", "lsq") for model in FAMILIES),
        ("nin", Form.GATHER, "liq", "liq"),
        ("nin", Form.GROUPED, "lsq", "lsq"),
        ("resnet", Form.LOOP, "liq", "lsq"),
        ("mobilenet-v2", Form.GROUPED, "lsq", "liq"),
    ],
)
def test_loss_and_every_gradient_equal_plain_modules(
    few: Images, model: str, form: Form, quantizer: str, activations: str
) -> None:
    """Every width in bits by every custom, in one step of plain descent."""
    images = noise(first(few, 24, 10))
    trainings = on(images, [
        training(
            model=model, bits=bits, quantizer=quantizer, activation_quantizer=activations, activation_bits=width,
            outer_activations=custom, outer_activation_bits=10 - width, seed=width, epochs=1,
            learning_rate=RATE, weight_decay=0.0, batch_size=24, **FAMILIES[model],
        )
        for width, bits, custom in WIDTHS
    ])  # fmt: skip
    cohort = cohort_of(trainings, images, form=form, dtype=torch.float64)
    batches = Batches(images, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    plain = [PlainTraining(one) for one in trainings]
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        state = cohort.state(member)
        state["parameters"] = moved_norms(state["parameters"], cohort, member)
        cohort.restore(member, state)
        put(reference.net, one, dict(cohort.layout.named(state["parameters"], state["statistics"])))
        reference.begin(batches.batch(0)[0])
    cohort.step()
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        loss = reference.step(*batches.batch(0))
        found = tensors(cohort, member, one)
        assert cohort.history(member)[0]["train_loss"] == pytest.approx(loss, abs=1e-12)
        for name, tensor in named(reference.net, one).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=RATE * 1e-10, msg=f"{one.bits} {name}")
