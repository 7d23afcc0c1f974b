"""A cohort computes what plain modules with torch.optim compute, each trained alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.forms import Form
from qsweep.workers.models.layout import Role
from tests.workers.plain import PlainTraining, named
from tests.workers.trainings import CALM, CONVOLUTIONAL, RATES, UNCOMPILED, first, mixture, on, training

CPU = torch.device("cpu")
STEPS = 12
"""With batches of 64 of 624 images: an epoch with a last batch of 48, a milestone, and two steps after it."""


def tensors(cohort: Cohort, member: int, one: Training) -> dict[str, torch.Tensor]:
    state = cohort.state(member)
    layout = cohort.layout
    found = dict(layout.named(state["parameters"], state["statistics"]))
    if one.quantizer is None:
        found = {name: tensor for name, tensor in found.items() if layout.role_of(name) is not Role.STEP_SIZE}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "depth"),
    [
        *((form, depth) for form in (Form.GATHER, Form.LOOP) for depth in (1, 2, 4)),
        (Form.GROUPED, 2),
    ],
)
def test_mixed_cohort_equals_plain_models_trained_alone(digits: Images, form: Form, depth: int) -> None:
    assert_equal_to_plain_models(first(digits, 624, 90), [form], mixture(depth=depth, batch_size=64))


@pytest.mark.slow
def test_mixed_cohort_of_resnets_equals_plain_ones_trained_alone(digits: Images) -> None:
    images = first(digits, 152, 90)  # an epoch is ten steps, the last of half a batch
    trainings = [
        training(
            model="resnet",
            batch_size=16,
            optimizer=optimizer,
            bits=bits,
            learning_rate=RATES[optimizer] / 100,
            weight_decay=1e-2 * (1 + number),
            seed=10 * number + bits,
            decay_step=bits == 4,
            **CALM[optimizer],
        )
        for optimizer in RATES
        for number, bits in enumerate((32, 8, 4, 2))
    ]
    assert_equal_to_plain_models(images, [form for form in UNCOMPILED if form is not Form.GROUPED], trainings)
    assert_equal_to_plain_models(images, [Form.GROUPED], trainings[::3])  # slow: each optimizer and each width once


@pytest.mark.slow
def test_mixed_cohort_of_bottleneck_resnets_equals_plain_ones_trained_alone(digits: Images) -> None:
    """In smaller batches rounding errors grow too fast; grouped convolutions, slow in float64, are compared above."""
    trainings = [
        training(
            model="resnet",
            depth=50,
            width=4,
            batch_size=75,
            optimizer=optimizer,
            bits=bits,
            learning_rate=RATES[optimizer] / (10_000 if optimizer == "sgd" else 1_000),
            seed=1,
            **CALM[optimizer],
        )
        for optimizer, bits in (("sgd", 32), ("adam", 8), ("sgd", 4), ("rmsprop", 2))
    ]
    assert_equal_to_plain_models(digits, [Form.GATHER, Form.LOOP], trainings, steps=5)


def calm(model: str, **settings: Any) -> list[Training]:
    """A training of `model` at each precision, at small rates."""
    return [
        training(
            model=model,
            optimizer=optimizer,
            bits=bits,
            learning_rate=RATES[optimizer] / 100,
            seed=bits,
            **CALM[optimizer],
            **settings,
        )
        for optimizer, bits in (("sgd", 32), ("adam", 8), ("sgd", 4), ("rmsprop", 2))
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_mobilenets_side_by_side_equal_plain_ones_trained_alone(few: Images) -> None:
    assert_equal_to_plain_models(few, CONVOLUTIONAL, calm("mobilenet", batch_size=32), steps=3)


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_vggs_side_by_side_equal_plain_ones_trained_alone(few: Images) -> None:
    """On noise from a continuum: where two pixels under a maximum are equal, and whole numbers times quantized
    weights often are, its gradient is not unique."""
    draw = torch.Generator().manual_seed(0)
    noise = 16 * torch.rand(few.train_images.shape, generator=draw, dtype=torch.float64)
    noisy = dataclasses.replace(few, train_images=noise)
    assert_equal_to_plain_models(noisy, CONVOLUTIONAL, calm("vgg", batch_size=32), steps=11)


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("preact", [False, True])
def test_cifars_resnets_side_by_side_equal_plain_ones_trained_alone(few: Images, preact: bool) -> None:
    trainings = calm("cifar-resnet", batch_size=32, preact=preact)
    assert_equal_to_plain_models(few, CONVOLUTIONAL, trainings, steps=3)


@pytest.mark.slow
def test_small_mobilenets_v2_side_by_side_equal_plain_ones_trained_alone(few: Images) -> None:
    """Not at 2 bits: a depthwise filter may round to nothing, and then what comes before ReLU is 0, its kink."""
    trainings = [one for one in calm("mobilenet-v2", batch_size=64, stem="small") if one.bits != 2]
    assert_equal_to_plain_models(few, [Form.GATHER, Form.LOOP], trainings, steps=2)


def assert_equal_to_plain_models(
    images: Images, forms: Sequence[Form], trainings: list[Training], steps: int = STEPS
) -> None:
    """In every form, after STEPS steps: parameters and statistics to 1e-10."""
    trainings = on(images, trainings)
    cohorts = {
        form: Cohort(trainings, images, slots=len(trainings) + 1, form=form, device=CPU, dtype=torch.float64)
        for form in forms
    }
    plain = [PlainTraining(one) for one in trainings]
    batches = Batches(images, trainings[0].recipe, CPU, torch.float64)
    for step in range(steps):
        epoch, number = divmod(step, trainings[0].steps_per_epoch)
        if number == 0:
            batches.open(epoch)
            if epoch:
                for one in plain:
                    one.schedule.step()
        for cohort in cohorts.values():
            cohort.step()
        for one in plain:
            one.step(*batches.batch(number))
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        wanted = named(reference.net, one)
        for form, cohort in cohorts.items():
            found = tensors(cohort, member, one)
            assert found.keys() == wanted.keys()
            for name, tensor in wanted.items():
                message = f"{form} {one.optimizer.name} {one.bits} {name}"
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=message)


def test_results_are_full_passes_of_the_epoch_with_the_lowest_training_loss(few: Images) -> None:
    (one,) = on(few, [training(optimizer="sgd", learning_rate=0.3, milestones=[], epochs=4, bits=4, batch_size=32)])
    plain = PlainTraining(one)
    batches = Batches(few, one.recipe, CPU, torch.float64)
    losses, kept = [], []
    for epoch in range(one.recipe.epochs):
        batches.open(epoch)
        steps = [plain.step(*batches.batch(number)) for number in range(one.steps_per_epoch)]
        losses.append(sum(steps) / len(steps))
        kept.append({name: tensor.clone() for name, tensor in plain.net.state_dict().items()})
    best = min(range(len(losses)), key=losses.__getitem__)
    plain.net.load_state_dict(kept[best])
    plain.net.eval()

    cohort = Cohort([one], few, slots=2, form=Form.GATHER, device=CPU, dtype=torch.float64)
    while not cohort.finished:
        cohort.step()
    result = cohort.results()[0]
    assert result.run["chosen_epoch"] == best + 1
    assert [row["train_loss"] for row in result.epochs] == pytest.approx(losses, abs=1e-9)
    for name, (images, labels) in {"train": batches.train, "test": batches.test}.items():
        logits = plain.net(batches.standardized(images)).detach()
        loss = torch.nn.functional.cross_entropy(logits, labels)
        assert result.run[f"{name}_loss"] == pytest.approx(float(loss), abs=1e-9)
        assert result.run[f"{name}_accuracy"] == float((logits.argmax(1) == labels).double().mean())
    weights = torch.cat([conv.weight.detach().flatten() for conv in plain.net.convs()])
    assert result.run["weight_norm"] == pytest.approx(float(weights.norm()), abs=1e-9)
    initial = torch.cat([conv.weight.detach().flatten() for conv in PlainTraining(one).net.convs()])
    assert result.run["distance"] == pytest.approx(float((weights - initial).norm()), abs=1e-9)
