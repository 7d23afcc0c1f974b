"""A training method is made of the engine's four verbs: also one of two passes, as a user would write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers import cohort as cohorts
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.targets import Targets
from qsweep.workers.engine import Engine
from qsweep.workers.forms import Form
from qsweep.workers.models.layout import STATISTICS, TRAINED, Layout, Role
from tests.workers.plain import PlainTraining, named
from tests.workers.test_equivalence import tensors
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.trainings import UNCOMPILED, mixture, on, training

CPU = torch.device("cpu")


class Sam:
    """Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412): the gradient at θ + ρ·g/(‖g‖ + 1e-12).

    The ball holds all that is trained but the step sizes, so that on quantized weights it is SAQ's second case.
    """

    def __init__(self, engine: Engine, layout: Layout, rho: float) -> None:
        self._engine, self._rho = engine, rho
        self._here = engine.place(engine.parameters)
        self._moved = torch.zeros_like(engine.parameters)
        self._there = engine.place(self._moved)
        self._ball = torch.zeros(layout.parameters_length, dtype=engine.parameters.dtype)
        for span in layout.spans_of(*TRAINED):
            self._ball[span.start : span.stop] = 1.0

    def step(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        engine = self._engine
        engine.deploy(self._here)
        first = engine.gradients(self._here, images, targets, update_statistics=True)
        engine.pull_back(self._here, first.gradients)
        norms = torch.stack([torch.linalg.vector_norm(row) for row in first.gradients * self._ball])
        away = first.gradients * self._ball * (self._rho / (norms + 1e-12))[:, None]
        self._moved.copy_(engine.parameters + away)
        engine.deploy(self._there)
        second = engine.gradients(self._there, images, targets, update_statistics=False)
        engine.pull_back(self._there, second.gradients)
        engine.apply(second.gradients)
        return first.losses.double(), first.hits


class Saq3(Sam):
    """SAQ's third case: ε = ρ·G/‖G‖, G the gradient in the deployed weights, is added to what was rounded, and the
    second gradient is pulled back at θ itself."""

    def step(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        engine = self._engine
        engine.deploy(self._here)
        first = engine.gradients(self._here, images, targets, update_statistics=True)
        norms = torch.stack([torch.linalg.vector_norm(row) for row in first.gradients * self._ball])
        away = first.gradients * self._ball * (self._rho / (norms + 1e-12))[:, None]
        self._moved.copy_(engine.parameters + away)
        engine.deploy(self._there)
        weights = slice(0, self._weights)
        self._there.weights[:, weights] = (self._here.weights + away)[:, weights]
        second = engine.gradients(self._there, images, targets, update_statistics=False)
        engine.pull_back(self._here, second.gradients)
        engine.apply(second.gradients)
        return first.losses.double(), first.hits

    def __init__(self, engine: Engine, layout: Layout, rho: float) -> None:
        super().__init__(engine, layout, rho)
        self._weights = layout.weights


def trained_by(
    method: type[Sam], rho: float, trainings: Sequence[Training], images: Images, patch: pytest.MonkeyPatch, **more: Any
) -> Cohort:
    """A cohort whose method is this one."""

    def method_of(placed: Sequence[Training], engine: Engine) -> Sam:
        return method(engine, engine.layout, rho)

    with patch.context() as patched:
        patched.setattr(cohorts, "method_of", method_of)
        return Cohort(trainings, images, **{"slots": len(trainings), "form": Form.GATHER, "device": CPU, **more})


@pytest.mark.slow
@pytest.mark.parametrize("form", UNCOMPILED)
@pytest.mark.parametrize("method", [Sam, Saq3])
def test_two_passes_without_a_perturbation_are_plain_training_bit_for_bit(
    few: Images, method: type[Sam], form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on(few, [training(bits=bits, batch_size=104, epochs=1, milestones=[]) for bits in (32, 4, 2)])
    plain = finish(Cohort(trainings, few, slots=4, form=form, device=CPU))
    for one, other in zip(
        plain, finish(trained_by(method, 0.0, trainings, few, monkeypatch, slots=4, form=form)), strict=True
    ):
        assert_same_bits(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("method", [Sam, Saq3])
def test_two_passes_leave_a_models_neighbours_and_slot_without_effect(
    few: Images, method: type[Sam], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on(few, mixture(batch_size=104))[:4]
    together = finish(trained_by(method, 0.1, trainings, few, monkeypatch, slots=5))
    reversed_order = finish(trained_by(method, 0.1, trainings[::-1], few, monkeypatch, slots=5))[::-1]
    for one, other in zip(together, reversed_order, strict=True):
        assert_same_bits(one, other)
    (alone,) = finish(trained_by(method, 0.1, trainings[1:2], few, monkeypatch, slots=5))
    assert_same_bits(together[1], alone)


def plain_sam_step(one: PlainTraining, images: Tensor, targets: Targets, rho: float) -> None:
    """The same with a plain module: restored from a saved copy, running statistics moved by the first pass alone."""
    loss: Callable[[], Tensor] = lambda: torch.nn.functional.cross_entropy(one.net(images), targets.labels)  # noqa: E731
    hidden = {id(pair.conv.bias) for pair in one.net.pairs() if isinstance(pair.norm, torch.nn.BatchNorm2d)}
    ball = [
        parameter
        for name, parameter in one.net.named_parameters()
        if not name.endswith("step") and id(parameter) not in hidden
    ]
    gradients = torch.autograd.grad(loss(), ball)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    saved = [parameter.detach().clone() for parameter in ball]
    moments = {name: value.clone() for name, value in one.net.named_buffers()}
    with torch.no_grad():
        for parameter, gradient in zip(ball, gradients, strict=True):
            parameter.add_(gradient * (rho / (norm + 1e-12)))
    one.optimizer.zero_grad()
    loss().backward()
    with torch.no_grad():
        for parameter, value in zip(ball, saved, strict=True):
            parameter.copy_(value)
        for name, value in one.net.named_buffers():
            value.copy_(moments[name])
    one.optimizer.step()
    with torch.no_grad():
        for step in one.steps:
            step.clamp_(min=torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("form", [Form.GATHER, Form.LOOP])
def test_sharpness_aware_minimization_equals_plain_modules(
    few: Images, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 104, "epochs": 2, "milestones": [], "learning_rate": 0.02}
    trainings = on(few, [training(bits=bits, **settings) for bits in (32, 4, 2)])
    cohort = trained_by(Sam, 0.2, trainings, few, monkeypatch, form=form, dtype=torch.float64)
    plain = [PlainTraining(one) for one in trainings]
    batches = Batches(few, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    for number in range(3):
        for one in plain:
            plain_sam_step(one, *batches.batch(number), 0.2)
        cohort.step()
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        found, wanted = tensors(cohort, member, one), named(reference.net, one)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=f"{one.bits} {name}")


def test_the_roles_of_the_ball_are_all_that_the_training_loss_differentiates() -> None:
    assert set(Role) - set(TRAINED) == {Role.HIDDEN_BIAS, Role.STEP_SIZE, *STATISTICS}
