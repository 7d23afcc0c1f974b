"""SAM, ASAM and SAQ's cases: against plain modules in double precision, alone and beside each other, and where they
meet plain training."""

from __future__ import annotations

import dataclasses
import itertools
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
from tests.workers.trainings import RATES, UNCOMPILED, first, on, training

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


@pytest.fixture
def fewer(few: Images) -> Images:
    """Two batches of 80."""
    return first(few, 160, 30)


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


@pytest.mark.parametrize("ascent_images", [0, 32])
def test_every_method_equals_plain_modules_in_double_precision(fewer: Images, ascent_images: int) -> None:
    """With parts of 32 images a batch of 80 has three, the last of 16. The share of the codes that ε changes, too."""
    settings = {"ascent_images": ascent_images} if ascent_images else {}
    trainings = methods(fewer, (4,) if ascent_images else (32, 4, 2), learning_rate=0.02, batch_size=80, **settings)
    forms = [Form.GATHER] if ascent_images else [Form.GATHER, Form.LOOP]
    cohorts = [cohort_of(trainings, fewer, form=form, dtype=torch.float64) for form in forms]
    plain = [SharpTraining(one) for one in trainings]
    batches = Batches(fewer, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    steps = trainings[0].steps_per_epoch
    losses = [sum(one.step(*batches.batch(number)) for number in range(steps)) / steps for one in plain]
    for cohort, _ in itertools.product(cohorts, range(steps)):
        cohort.step()
    parts = [0.4, 0.4, 0.2] if ascent_images else [1.0]
    for (member, one), cohort in itertools.product(enumerate(trainings), cohorts):
        found, wanted = tensors(cohort, member, one), named(plain[member].net, one)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=f"{one.method} {one.bits} {name}")
        epoch = cohort.history(member)[0]
        assert epoch["train_loss"] == pytest.approx(losses[member], abs=1e-10)
        shares = zip(plain[member].changed, parts * steps, strict=True)
        changed = sum(share * part for share, part in shares) / steps
        assert epoch.get("changed_codes") == (pytest.approx(changed, abs=1e-12) if one.quantizer else None)
        assert bool(changed) is bool(one.quantizer)


def without_a_radius(images: Images, form: Form, bits: Sequence[int] = (32, 4, 2)) -> None:
    """Train without a radius and plainly: the same bits, and no code is another one."""
    sharp = [one for one in methods(images, bits, rho=0.0, epochs=1) if not one.method.bn_second_pass]
    plain = [dataclasses.replace(one, method=training().method) for one in sharp]
    trained = (finish(cohort_of(some, images, form=form, slots=len(some) + 1)) for some in (plain, sharp))
    for number, (one, other) in enumerate(zip(*trained, strict=True)):
        unchanged = 0.0 if sharp[number].quantizer else None
        assert other.run.pop("changed_codes") == unchanged
        assert [epoch.pop("changed_codes", None) for epoch in other.epochs] == [unchanged]
        assert one.run.pop("changed_codes") is None
        assert_same_bits(one, other)


@pytest.mark.parametrize("form", UNCOMPILED)
def test_without_a_radius_every_method_is_plain_training_bit_for_bit(few: Images, form: Form) -> None:
    without_a_radius(few, form)


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("form", [form for form in Form if form.compiled])
def test_without_a_radius_every_method_is_plain_training_in_compiled_forms_too(few: Images, form: Form) -> None:
    without_a_radius(few, form, (32, 2))


@pytest.mark.usefixtures("uncompiled")
def test_a_compiled_form_pulls_back_through_the_rounding_of_each_method(fewer: Images) -> None:
    trainings = methods(fewer, (32, 2), learning_rate=0.02, batch_size=80)
    forms = [Form.LOOP, *(form for form in Form if form.compiled)]
    first, *others = (cohort_of(trainings, fewer, form=form, dtype=torch.float64) for form in forms)
    for cohort, _ in itertools.product((first, *others), range(trainings[0].steps_per_epoch)):
        cohort.step()
    for other, member in itertools.product(others, range(len(trainings))):
        here, there = first.state(member), other.state(member)
        for name in ("parameters", "statistics", "changed_codes"):
            torch.testing.assert_close(here[name], there[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", [Form.GATHER, pytest.param(Form.GROUPED, marks=pytest.mark.slow)])
def test_neighbours_their_methods_and_the_place_change_no_bit(few: Images, form: Form) -> None:
    optimizers = list(RATES)
    trainings = [
        training(bits=bits, optimizer=optimizers[number % 3], seed=number, rho=0.1 * (1 + number % 2), **one, **SHORT)
        for number, (one, bits) in enumerate(itertools.product(EVERY, (32, 4)))
    ]
    trainings = on(few, trainings)
    slots = len(trainings) + 1
    together = finish(cohort_of(trainings, few, form=form, slots=slots))
    reversed_order = finish(cohort_of(trainings[::-1], few, form=form, slots=slots))[::-1]
    for one, other in zip(together, reversed_order, strict=True):
        assert_same_bits(one, other)
    for member in range(1, len(trainings), 4):
        (alone,) = finish(cohort_of([trainings[member]], few, form=form, slots=slots))
        assert_same_bits(together[member], alone)


def test_a_training_resumed_inside_an_epoch_goes_on_bit_for_bit(few: Images, tmp_path: Path) -> None:
    trainings = methods(few, (32, 2), batch_size=64)
    whole = finish(cohort_of(trainings, few))
    first, second = cohort_of(trainings, few), cohort_of(trainings[::-1], few)
    for _ in range(7):
        first.step()
    for member in range(len(trainings)):
        path = tmp_path / f"{member}.pt"
        second.restore(len(trainings) - 1 - member, checkpoints.load(path, checkpoints.save(path, first.state(member))))
    assert second.position == 7
    assert not second.between_epochs
    for one, other in zip(whole, finish(second)[::-1], strict=True):
        assert_same_bits(one, other)


def test_the_perturbed_point_leaves_no_trace_in_the_parameters(few: Images) -> None:
    """(p + ε) − ε is another number than p for some: a step of nearly nothing shows what was restored."""
    trainings = methods(few, learning_rate=1e-30, weight_decay=0.0)
    cohort = cohort_of(trainings, few)
    before = [cohort.state(member)["parameters"] for member in range(len(trainings))]
    for _ in range(3):
        cohort.step()
    for member, row in enumerate(before):
        torch.testing.assert_close(cohort.state(member)["parameters"], row, rtol=0, atol=1e-20)


def test_where_nothing_is_clipped_the_first_case_is_the_third_bit_for_bit(few: Images) -> None:
    """The step sizes begin so that 8 bits reach beyond every weight; at 2 bits some are clipped."""
    for bits, same in ((8, True), (2, False)):
        chosen = [training(bits=bits, method=name, rho=0.2, **SHORT) for name in ("saq1", "saq3")]
        cohort = cohort_of(on(few, chosen), few)
        cohort.step()
        one, other = (cohort.state(member)["parameters"] for member in range(2))
        assert torch.equal(one, other) is same


STEP = 0.5


class Surface:
    """The engine's verbs on a loss of weights (2) that is given as a function; they are deployed as `rounded` says, and
    the slope of that is 1 between −1 and 1, else 0."""

    def __init__(
        self, loss: Callable[[Tensor], Tensor], rows: Tensor, rounded: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        names = TensorSpec(name="weight", shape=(2,), role=Role.WEIGHT, group="all")
        step = TensorSpec(name="step", shape=(), role=Role.STEP_SIZE, group="all")
        self.layout = Layout([ModuleSpec(name="", tensors=(names, step), draw=dict)])
        self.parameters = torch.zeros(len(rows), self.layout.parameters_length, dtype=torch.float64)
        self.parameters[:, :2] = rows
        self.parameters[:, 2] = STEP
        self._loss, self._rounded = loss, rounded
        self.points: list[Tensor] = []
        """Where each pass was taken."""
        self.losses: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.applied: Tensor
        self.changed: Tensor

    def place(self, parameters: Tensor) -> Any:
        return SimpleNamespace(parameters=parameters, weights=torch.zeros_like(parameters))

    def deploy(self, deployed: Any) -> None:
        deployed.weights.copy_(deployed.parameters)
        if self._rounded is not None:
            deployed.weights[:, :2] = self._rounded(deployed.parameters[:, :2])

    def gradients(self, deployed: Any, images: Tensor, labels: Tensor, *, update_statistics: bool) -> Pass:
        at = deployed.weights.detach().clone().requires_grad_()
        losses = torch.stack([self._loss(row[:2]) for row in at])
        (gradients,) = torch.autograd.grad(losses.sum(), [at])
        self.losses.append(losses.detach())
        self.points.append(at.detach()[:, :2])
        self.slopes.append(gradients[:, :2].clone())
        return Pass(losses=losses.detach(), hits=torch.zeros(len(at), dtype=torch.int64), gradients=gradients)

    def pull_back(self, deployed: Any, gradients: Tensor) -> None:
        if self._rounded is not None:
            gradients[:, :2] *= deployed.parameters[:, :2].abs() <= 1

    def apply(self, gradients: Tensor) -> None:
        self.applied = gradients[:, :2].clone()


def stepped(
    loss: Callable[[Tensor], Tensor],
    rows: Tensor,
    *chosen: Training,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Surface:
    surface: Any = Surface(loss, rows, rounded)
    surface.changed = TwoPasses(chosen, surface).step(torch.empty(0), torch.empty(0))[2]
    return surface


def test_on_a_quadratic_the_step_of_sam_has_its_closed_form() -> None:
    """½θᵀAθ: the gradient at θ + ρAθ/‖Aθ‖ is A(I + ρA/‖Aθ‖)θ."""
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    rows = torch.tensor([[1.0, -2.0], [0.3, 0.1], [5.0, 4.0]], dtype=torch.float64)
    radii = (0.05, 0.5, 2.0)
    surface = stepped(lambda at: at @ matrix @ at / 2, rows, *(training(method="sam", rho=rho) for rho in radii))
    for row, rho, found in zip(rows, radii, surface.applied, strict=True):
        slope = matrix @ row
        torch.testing.assert_close(found, slope + rho * matrix @ slope / (slope.norm() + 1e-12), rtol=0, atol=1e-14)


def bowl(at: Tensor) -> Tensor:
    return (at[0] - 2.0) ** 2 + 3 * (at[1] - 3.0) ** 2


def test_the_perturbation_of_each_case_has_its_length_and_leaves_out_what_is_clipped_but_in_the_third() -> None:
    """The second weight is clipped to 1: case 1 goes up the masked gradient alone, case 3 up both."""
    rho, rows = 0.125, torch.tensor([[0.25, 1.75]] * 2, dtype=torch.float64)
    chosen = [training(bits=4, method=name, rho=rho) for name in ("saq1", "saq3")]
    found = stepped(bowl, rows, *chosen, rounded=lambda weights: weights.clamp(-1, 1))
    here, there = found.points
    assert torch.equal(here, rows.clamp(-1, 1))
    first, third = away = there - here
    slopes = torch.stack([found.slopes[0][0] * torch.tensor([1.0, 0.0]), found.slopes[0][1]])
    lengths = torch.linalg.vector_norm(slopes, dim=1, keepdim=True)
    torch.testing.assert_close(away, rho * slopes / (lengths + 1e-12), rtol=0, atol=1e-15)
    assert float(first[1]) == 0
    assert float(first.norm()) == pytest.approx(rho)
    assert float(third.norm()) == pytest.approx(rho)
    assert float(first @ third) < 0.9 * rho**2
    assert found.applied[:, 1].tolist() == [0, 0]


def test_where_no_code_changes_sam_on_rounded_weights_is_plain_training() -> None:
    """SAQ's second case vanishes there: both passes see the same network. A larger radius changes a code."""
    rows = torch.tensor([[0.55, -0.4]] * 2, dtype=torch.float64)
    chosen = [training(bits=4, method="sam", rho=rho) for rho in (0.1, 0.5)]
    found = stepped(bowl, rows, *chosen, rounded=lambda weights: (weights / STEP).round() * STEP)
    here, there = found.points
    assert found.changed.tolist() == [0.0, 0.5]
    assert torch.equal(here[0], there[0])
    assert torch.equal(found.applied[0], found.slopes[0][0])
    assert not torch.equal(here[1], there[1])
    assert not torch.equal(found.applied[1], found.slopes[0][1])


def test_asam_without_eta_does_not_depend_on_how_layers_share_their_scale_and_sam_does() -> None:
    loss: Callable[[Tensor], Tensor] = lambda at: (at[0] * at[1] - 1) ** 2  # noqa: E731
    rows = torch.tensor([[2.0, 3.0], [8.0, 0.75]], dtype=torch.float64)
    for method, same in (({"method": "asam", "eta": 0.0}, True), ({"method": "sam"}, False)):
        one, other = stepped(loss, rows, *[training(rho=0.1, **method)] * 2).losses[1].tolist()
        assert (one == pytest.approx(other, rel=1e-12)) is same
