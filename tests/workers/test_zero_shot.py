"""Images from a trained model, against a plain PyTorch implementation of Genie's published code in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie
from qsweep.workers.deployed import deployed
from qsweep.workers.zero_shot.generator import Generator, doubled, generator_modules, initial_embeddings
from qsweep.workers.zero_shot.plateau import Plateau
from qsweep.workers.zero_shot.swing import draw_shifts, swung
from qsweep.workers.zero_shot.synthesis import Synthesizer, generator_rates
from qsweep.workers.zero_shot.teacher import Distance, StoredNorm, Teacher, image_loss, observe
from tests.workers.trainings import model_of, training

CPU = torch.device("cpu")
SMALL = Genie(image_count=8, image_batch=4, image_iterations=4, embedding_size=8, image_seed=3)


def synthesizer(asked: Genie, **settings: Any) -> Synthesizer:
    one = training(**settings)
    return Synthesizer(one, model_of(one), asked, device=CPU, dtype=torch.float64)


def run(made: Synthesizer) -> Synthesizer:
    while not made.finished:
        made.step()
    return made


# --- the plain implementation -------------------------------------------------------------------------------------


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm() ** 2 / len(b)


class Plain:
    """Genie's `distill_data`, of one batch, with hooks on a plain module."""

    def __init__(self, training: Training, model: Mapping[str, Tensor], asked: Genie) -> None:
        self._asked, self._data = asked, training.data
        self.network = deployed(training, model).double()
        self._inputs: list[Tensor] = []
        self._stored: list[tuple[Tensor, Tensor]] = []
        self._shifts: list[tuple[int, int]] = []
        self.strided = 0
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                self._stored.append((module.running_mean, torch.sqrt(module.running_var + 1e-6)))
                module.register_forward_pre_hook(lambda _, given: self._inputs.append(given[0]))
            elif isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                self.strided += 1
                module.register_forward_pre_hook(lambda _, given: self._swing(given[0]))

    def _swing(self, images: Tensor) -> Tensor:
        down, across = self._shifts.pop(0)
        side = images.shape[2]
        if side == 1:  # where the published code would fail
            return images
        return F.pad(images, [1, 1, 1, 1], mode="reflect")[:, :, down : down + side, across : across + side]

    def losses(self, images: Tensor, shifts: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        self._inputs, self._shifts = [], list(shifts)
        self.network(images)
        assert not self._shifts
        deviation, mean = torch.std_mean(images, [2, 3])
        channels = images.shape[1]
        of_images = distance(torch.zeros(1, channels), mean) + distance(torch.ones(1, channels), deviation)
        total = torch.zeros((), dtype=torch.float64)
        for (stored_mean, stored_deviation), given in zip(self._stored, self._inputs, strict=True):
            deviation, mean = torch.std_mean(given, [0, 2, 3])
            total = total + distance(stored_mean, mean) + distance(stored_deviation, deviation)
        return of_images, total

    def batch(self, number: int) -> tuple[Tensor, list[list[float]]]:
        """The images of the last iteration, and the losses and the embeddings' rate of each."""
        asked, data = self._asked, self._data
        generator = generator_modules(asked.embedding_size, data.channels, data.size)
        row = Generator(asked.embedding_size, data.channels, data.size).initial(asked.image_seed, number)[0]
        nn.utils.vector_to_parameters(row, generator.parameters())
        generator.double()
        embeddings = initial_embeddings(asked.image_seed, number, asked.image_batch, asked.embedding_size).double()
        embeddings.requires_grad_()
        of_z = torch.optim.Adam([embeddings], lr=asked.embedding_rate)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(of_z, min_lr=1e-4, patience=100)
        of_g = torch.optim.Adam(generator.parameters(), lr=asked.generator_rate)
        decay = torch.optim.lr_scheduler.ExponentialLR(of_g, gamma=0.95)
        told = []
        for iteration in range(asked.image_iterations):
            shifts = draw_shifts(asked.image_seed, number, iteration, self.strided)
            images = generator(embeddings)
            of_images, statistics = self.losses(images, list(shifts))
            loss = of_images + statistics
            of_z.zero_grad()
            of_g.zero_grad()
            loss.backward()
            told.append([of_images.item(), statistics.item(), of_z.param_groups[0]["lr"]])
            of_z.step()
            of_g.step()
            plateau.step(loss.item())
            if (iteration + 1) % 100 == 0:
                decay.step()
        return images.detach(), told


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"model": "resnet", "width": 2}, replace(SMALL, image_count=4)),
        ({"model": "nin", "width": 2}, replace(SMALL, rates="paper")),
        ({"model": "cifar-resnet", "depth": 20, "width": 2, "preact": True}, replace(SMALL, image_count=4)),
        ({"model": "mobilenet", "width": 2}, replace(SMALL, image_count=4)),
    ],
)
def test_a_synthesis_is_that_of_the_published_code(settings: dict[str, Any], asked: Genie) -> None:
    made = run(synthesizer(asked, **settings))
    one = training(**settings)
    plain = Plain(one, model_of(one), asked)
    found = [plain.batch(number) for number in range(asked.batches)]
    images = torch.cat([batch for batch, _ in found])
    losses = torch.tensor([row for _, told in found for row in told], dtype=torch.float64)
    assert made.images().dtype == torch.float64
    # Not longer, because Adam divides by next to nothing: a rounding grows in every step.
    torch.testing.assert_close(made.images(), images, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(made.found().losses, losses, rtol=1e-10, atol=1e-10)
    without_swing = [plain.losses(one, [(1, 1)] * plain.strided)[1].item() for one, _ in found]
    assert made.found().distance == pytest.approx(sum(without_swing) / len(found), rel=1e-10)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_doubled_image_is_convolved_as_it_stands(side: int) -> None:
    draws = torch.Generator().manual_seed(side)
    shapes = ((2, 3, side, side), (4, 3, 3, 3), (4,))
    given = [torch.randn(one, dtype=torch.float64, generator=draws, requires_grad=True) for one in shapes]
    images, weight, bias = given
    expected = F.conv2d(F.interpolate(images, scale_factor=2), weight, bias, padding=1)
    found = doubled(*given)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    above = torch.randn(expected.shape, dtype=torch.float64, generator=draws)
    ours, theirs = (torch.autograd.grad(one, given, above) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def norm_of(mean: list[float], variance: list[float]) -> StoredNorm:
    numbers = torch.tensor(variance, dtype=torch.float64)
    ones = torch.ones_like(numbers)
    return StoredNorm(
        scale=ones, shift=0 * ones, mean=torch.tensor(mean, dtype=torch.float64), deviation=(numbers + 1e-6).sqrt()
    )


def loss_of(images: Tensor, *norms: StoredNorm) -> Tensor:
    """That of several batch norms which see the same images."""
    return Distance(norms)([observe(images, norm)[1] for norm in norms])


def test_the_loss_of_one_batch_norm_by_hand() -> None:
    """Batch means (½, 1) and deviations (1, 2) beside stored means (0, 1) and variances (1, 4)."""
    drawn = torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    deviation, mean = torch.std_mean(drawn, (0, 2, 3), keepdim=True)
    wanted = torch.tensor([[0.5, 1.0], [1.0, 2.0]], dtype=torch.float64)[:, None, :, None, None]
    images = (drawn - mean) / deviation * wanted[1] + wanted[0]
    expected = 0.25 / 2 + ((1 - (1 + 1e-6) ** 0.5) ** 2 + (2 - (4 + 1e-6) ** 0.5) ** 2) / 2
    assert float(loss_of(images, norm_of([0, 1], [1, 4]))) == pytest.approx(expected, rel=1e-12)


def test_the_loss_of_images_that_are_standard_is_nothing() -> None:
    drawn = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    deviation, mean = torch.std_mean(drawn, (2, 3), keepdim=True)
    assert float(image_loss((drawn - mean) / deviation)) == pytest.approx(0, abs=1e-25)
    assert float(image_loss(2 * (drawn - mean) / deviation + 3)) == pytest.approx(3 * (9 + 1), rel=1e-12)


def test_the_gradient_of_a_batch_norm_is_that_of_its_definition() -> None:
    images = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = replace(norm_of([0.3, -0.2], [0.7, 1.9]), scale=torch.tensor([1.5, -0.4]).double())
    other = norm_of([0.1, 0.4], [1.2, 0.3])
    images.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (observe(x, norm)[0], loss_of(x, norm, other)), images)


def test_a_channel_that_is_all_alike_gets_no_gradient_of_its_deviation() -> None:
    images = torch.ones(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_of(images, norm_of([0.5], [1.0])), images)
    torch.testing.assert_close(gradient, torch.full_like(images, 2 * 0.5 / 12))


def test_images_that_made_the_statistics_have_next_to_no_loss() -> None:
    one = training(model="resnet", width=2)
    model = model_of(one)
    network = deployed(one, model).double()
    names = [layer.name for layer in network.geometry if layer.norm]

    def take(norm: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        norm.running_var, norm.running_mean = torch.var_mean(given[0].detach(), (0, 2, 3))

    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(take)
    images = torch.randn(20, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = Teacher(one, model, CPU, torch.float64).see(images)
    network(images)
    model = {name: tensor.double() for name, tensor in model.items()}
    for name, norm in zip(names, norms, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        model |= {f"{name}.norm.running_mean": norm.running_mean, f"{name}.norm.running_var": norm.running_var}
    after = Teacher(one, model, CPU, torch.float64).see(images)
    assert float(after.statistics_loss) < 1e-9 * len(norms) < float(before.statistics_loss)


@pytest.mark.parametrize("side", [2, 3, 8])
def test_swing_is_reflection_and_a_cut(side: int) -> None:
    images = torch.arange(2.0 * 3 * side**2).view(2, 3, side, side)
    for down in range(3):
        for across in range(3):
            expected = F.pad(images, [1, 1, 1, 1], mode="reflect")[:, :, down : down + side, across : across + side]
            assert torch.equal(swung(images, (down, across)), expected)


def test_an_image_of_one_pixel_does_not_swing() -> None:
    images = torch.randn(2, 3, 1, 1)
    assert torch.equal(swung(images, (0, 2)), images)


def test_shifts_are_uniform_and_follow_from_their_counters() -> None:
    drawn = torch.tensor([draw_shifts(1, 0, iteration, 4) for iteration in range(1000)])
    counts = torch.bincount(drawn.flatten(), minlength=3)
    assert (counts - 8000 / 3).abs().max() < 4 * (8000 * 2 / 9) ** 0.5
    assert draw_shifts(1, 0, 7, 4) == draw_shifts(1, 0, 7, 4)
    assert len({str(draw_shifts(seed, batch, 7, 9)) for seed in range(3) for batch in range(3)}) == 9


def test_the_embeddings_rate_falls_as_pytorchs_scheduler_lets_it() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=1e-4, patience=100)
    ours, rates = Plateau(0.1, CPU), set[float]()
    draws = torch.Generator().manual_seed(0)
    for number in range(900):
        loss = 1 / (1 + min(number, 150)) + 1e-3 * torch.rand((), generator=draws, dtype=torch.float64)
        theirs.step(loss)
        ours.step(loss)
        rates.add(float(ours.rate))
        assert float(ours.rate) == optimizer.param_groups[0]["lr"]
    assert len(rates) == 4


@pytest.mark.parametrize(("rates", "first"), [("code", 0.01), ("paper", 0.1)])
def test_the_generators_rate_falls_every_hundred_iterations(rates: str, first: float) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=first)
    theirs, expected = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95), list[float]()
    optimizer.step()
    for iteration in range(450):
        expected.append(optimizer.param_groups[0]["lr"])
        if (iteration + 1) % 100 == 0:
            theirs.step()
    found = generator_rates(Genie(rates=rates, image_iterations=450)).tolist()
    assert found == pytest.approx(expected, rel=1e-14)


def test_a_synthesis_goes_on_from_any_step_to_the_same_bits() -> None:
    settings: dict[str, Any] = {"model": "nin", "width": 2, "depth": 1}
    whole = run(synthesizer(SMALL, **settings)).found()
    for stop in range(SMALL.steps):
        first = synthesizer(SMALL, **settings)
        for _ in range(stop):
            first.step()
        state = first.state()
        first.step()  # what comes after changes nothing of what was handed over
        second = synthesizer(SMALL, **settings)
        second.restore(state)
        again = run(second).found()
        assert second.position == SMALL.steps
        assert torch.equal(again.images, whole.images)
        assert torch.equal(again.losses, whole.losses)
        assert again.row() == whole.row()


def test_batches_are_of_their_own_and_follow_from_the_seed() -> None:
    settings: dict[str, Any] = {"model": "nin", "width": 2, "depth": 1}
    both = run(synthesizer(SMALL, **settings)).images()
    first = run(synthesizer(replace(SMALL, image_count=4), **settings)).images()
    other = run(synthesizer(replace(SMALL, image_count=4, image_seed=4), **settings)).images()
    still = run(synthesizer(replace(SMALL, image_count=4, swing=False), **settings)).images()
    assert torch.equal(both[:4], first)
    assert not torch.equal(both[4:], first)
    assert not torch.equal(other, first)
    assert not torch.equal(still, first)


def test_a_row_tells_what_the_model_sees() -> None:
    found = run(synthesizer(SMALL, model="nin")).found()
    row, images = found.row(), list(found.image_rows())
    one = training(model="nin")
    logits = deployed(one, model_of(one)).double()(found.images).detach()
    assert [image["class"] for image in images] == logits.argmax(1).tolist()
    assert [image["confidence"] for image in images] == pytest.approx(logits.softmax(1).max(1).values.tolist())
    assert sum(row["class_counts"]) == SMALL.image_count
    assert row["classes_seen"] == len({image["class"] for image in images})
    assert row["loss"] == pytest.approx(row["image_loss"] + row["statistics_loss"])
    assert torch.equal(torch.tensor(images[3]["pixels"], dtype=torch.float64).view(1, 8, 8), found.images[3])
    assert len(list(found.loss_rows())) == SMALL.steps
    assert not run(synthesizer(SMALL, model="nin")).diverged


def test_a_loss_that_is_not_finite_is_seen() -> None:
    one = training(model="nin")
    model = model_of(one)
    model["block0.conv0.norm.running_mean"].fill_(torch.inf)
    made = run(Synthesizer(one, model, replace(SMALL, image_count=4), device=CPU))
    assert made.diverged
