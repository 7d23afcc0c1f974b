"""SADAG's second stage, in float64 against plain computations: the quantized model, the gradient, the stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Sadag
from qsweep.workers.deployed import deployed
from qsweep.workers.measures.draws import generator as draws_of
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.zero_shot.generator import Generator, initial_embeddings
from qsweep.workers.zero_shot.scales import activation_scale, round_activations, weight_grid
from qsweep.workers.zero_shot.sharpness import LastGradient, SecondStage, diversity, mismatch, worst_move
from qsweep.workers.zero_shot.student import Student
from qsweep.workers.zero_shot.swing import draw_shifts
from qsweep.workers.zero_shot.synthesis import Synthesizer
from qsweep.workers.zero_shot.teacher import Teacher
from tests.workers.test_zero_shot import CPU, model_of, run
from tests.workers.trainings import training

ASKED = Sadag(
    image_count=8, image_batch=4, image_iterations=2, sharp_iterations=2, embedding_size=8, image_seed=3,
    weight_bits=3, activation_bits=4,
)  # fmt: skip
WIDE = torch.float64


def quantized_weights(weight: Tensor, bits: int) -> Tensor:
    grid = weight_grid(weight, bits)
    return grid.values(grid.codes(weight)).view_as(weight)


def draws(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# --- scales ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_scale_of_each_channel_is_the_best_of_all_ratios(bits: int) -> None:
    weight = torch.randn(3, 4, 3, 3, dtype=WIDE, generator=draws(bits))
    found = quantized_weights(weight, bits)
    for channel, rounded in zip(weight, found, strict=True):
        error = float((channel - rounded).abs().pow(2.4).mean())
        errors = []
        for percent in range(1, 101):
            step = (channel.max() - channel.min()) * (percent / 100) / (2**bits - 1)
            zero = torch.round(-channel.min() * (percent / 100) / step)
            codes = torch.clamp(torch.round(channel / step) + zero, 0, 2**bits - 1)
            errors.append(float((channel - (codes - zero) * step).abs().pow(2.4).mean()))
        assert error == pytest.approx(min(errors), rel=1e-12)
        assert len(rounded.unique()) <= 2**bits


@pytest.mark.parametrize("signed", [True, False])
def test_the_scale_of_activations_is_the_best_of_all_ratios(signed: bool) -> None:
    values = torch.randn(500, dtype=WIDE, generator=draws(1))
    values = values if signed else values.relu()
    scale = activation_scale(values, 3)
    assert (scale.low, scale.high) == ((-4, 3) if signed else (0, 7))
    errors = []
    for percent in range(1, 101):
        step = values.abs().max() * (percent / 100) * (2 if signed else 1) / 7
        errors.append(
            float((values - (values / step).clamp(scale.low, scale.high).round() * step).abs().pow(2.4).mean())
        )
    found = float((values - round_activations(values, scale)).abs().pow(2.4).mean())
    assert found == pytest.approx(min(errors), rel=1e-12)


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 3, 1, 1)
    weight[1] = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1)
    found = quantized_weights(weight, 2)
    assert torch.equal(found[0], torch.zeros(3, 1, 1))
    assert found.isfinite().all()


def test_the_gradient_of_a_rounding_passes_where_nothing_is_clipped() -> None:
    values = torch.tensor([-1.0, 0.3, 0.8, 9.0], requires_grad=True)
    scale = replace(activation_scale(torch.tensor([1.0, 0.5]), 2), step=torch.tensor(0.5))
    (gradient,) = torch.autograd.grad(round_activations(values, scale).sum(), values)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 0.0]


# --- the plain quantized model -------------------------------------------------------------------------------------


class PlainStudent:
    """The quantized model as a loop over the layers, with a quantizer of each tensor that a convolution reads."""

    def __init__(self, one: Training, model: Mapping[str, Tensor], weight_bits: int, activation_bits: int) -> None:
        self.network = deployed(one, model).double()
        self.layers = list(zip(self.network.geometry, self.network.layers, strict=True))
        convolutions = [layer.name for layer, _ in self.layers if isinstance(layer, ConvLayer)]
        self.second, self.last = convolutions[1], convolutions[-1]
        self.activation_bits = activation_bits
        self.scales: dict[str, Any] = {}
        for layer, module in self.layers:
            if isinstance(layer, ConvLayer):
                bits = 8 if layer.name in (convolutions[0], self.last) else weight_bits
                module.conv.weight.data = quantized_weights(module.conv.weight.data, bits)
        self.read: dict[str, int] = {}
        before = "images"
        for layer, _ in self.layers:
            source = (before if layer.source is None else layer.source) + ("" if layer.pool is None else " pooled")
            if isinstance(layer, ConvLayer) and source != "images":
                bits = 8 if layer.name in (self.second, self.last) else activation_bits
                self.read[source] = max(bits, self.read.get(source, 0))
            before = layer.name

    def __call__(self, images: Tensor, shifts: list[tuple[int, int]], *, calibrating: bool = False) -> Any:
        outputs, signal, before, left = {"images": images}, images, "images", list(shifts)
        features = None

        def rounded(name: str, values: Tensor) -> Tensor:
            if name not in self.read:
                return values
            if calibrating and name not in self.scales:
                self.scales[name] = activation_scale(values.detach(), self.read[name])
            return round_activations(values, self.scales[name])

        for layer, module in self.layers:
            name = before if layer.source is None else layer.source
            signal = outputs[name]
            if layer.pool is not None:
                signal, name = pool_planes(signal, layer.pool), f"{name} pooled"
            if isinstance(layer, ConvLayer):
                signal = rounded(name, signal)
                if layer.name == self.last:
                    features = signal.mean((2, 3))
                if layer.stride != 1 and left:
                    down, across = left.pop(0)
                    side = signal.shape[2]
                    padded = F.pad(signal, [1, 1, 1, 1], mode="reflect")
                    signal = padded[:, :, down : down + side, across : across + side]
            signal = module(signal)
            if layer.residual is not None:
                signal = signal + rounded(layer.residual, outputs[layer.residual])
            if layer.relu:
                signal = signal.relu()
            outputs[layer.name], before = signal, layer.name
        return signal.mean((2, 3)), features


NETWORKS = [{"model": "cifar-resnet", "width": 2}, {"model": "cifar-resnet", "width": 2, "preact": True}]


@pytest.mark.parametrize("settings", NETWORKS)
def test_the_student_is_the_plain_quantized_model(settings: dict[str, Any]) -> None:
    one = training(**settings)
    model = model_of(one)
    student = Student(one, model, weight_bits=3, activation_bits=4, device=CPU, dtype=WIDE)
    plain = PlainStudent(one, model, 3, 4)
    images = torch.randn(6, 1, 8, 8, dtype=WIDE, generator=draws(0))
    student.calibrate(images)
    plain(images, [], calibrating=True)
    other = torch.randn(6, 1, 8, 8, dtype=WIDE, generator=draws(1))
    shifts = list(draw_shifts(0, 0, 0, 4))
    for found, expected in zip(student.see(other, shifts), plain(other, shifts), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# --- gradients -----------------------------------------------------------------------------------------------------


def test_the_factored_gradient_is_that_of_the_last_layer() -> None:
    """g of ½‖W f − z‖² is (W f − z) ⊗ f, and its cosine the product of two."""
    weight = torch.randn(5, 7, dtype=WIDE, generator=draws(0), requires_grad=True)
    features, goal = (torch.randn(2, n, dtype=WIDE, generator=draws(n)) for n in (7, 5))
    gradients = [
        torch.autograd.grad(0.5 * (weight @ features[i] - goal[i]).square().sum(), weight)[0].flatten() for i in (0, 1)
    ]
    errors = features @ weight.detach().T - goal
    both = LastGradient.of(errors, features)
    one, two = (LastGradient(errors=both.errors[i : i + 1], features=both.features[i : i + 1]) for i in (0, 1))
    expected = 1 - F.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert float(mismatch(one, two)) == pytest.approx(float(expected), rel=1e-12)


def test_diversity_by_hand() -> None:
    apart = LastGradient.of(torch.eye(3, dtype=WIDE), torch.ones(3, 2, dtype=WIDE))
    alike = LastGradient.of(torch.ones(3, 4, dtype=WIDE), -torch.ones(3, 2, dtype=WIDE))
    for threshold in (0.0, 0.1):
        assert float(diversity(apart, threshold, "sum")) == pytest.approx(0, abs=1e-12)
        assert float(diversity(alike, threshold, "sum")) == pytest.approx(3 * 2 * (1 - threshold))
        assert float(diversity(alike, threshold, "mean")) == pytest.approx(1 - threshold)


@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_a_move_has_its_radius_and_turns_the_gradient(norm: str) -> None:
    mix = torch.randn(6, 9, dtype=WIDE, generator=draws(0))
    place = torch.randn(5, 6, dtype=WIDE, generator=draws(1))

    def gradient_at(move: Tensor) -> LastGradient:
        hidden = ((place + 0.1 * move) @ mix).tanh()
        return LastGradient.of(hidden[:, :4], hidden[:, 4:])

    here = gradient_at(torch.zeros_like(place))
    start = 0.01 * torch.randn(5, 6, dtype=WIDE, generator=draws(2))
    move = worst_move(here, gradient_at, start, 2.0, norm)
    lengths = move.norm(dim=1) if norm == "sample" else move.norm()[None]
    torch.testing.assert_close(lengths, torch.full_like(lengths, 2.0))
    assert (mismatch(here, gradient_at(move)) > 0).all()
    still = torch.zeros_like(place, requires_grad=True)
    (slope,) = torch.autograd.grad(mismatch(here, gradient_at(still)).sum(), still)
    assert slope.abs().max() < 1e-14  # so it has to start elsewhere


@pytest.mark.parametrize("features", ["quantized", "float"])
def test_the_second_stage_is_that_of_its_definition(features: str) -> None:
    one = training(**NETWORKS[0])
    model, asked = model_of(one), replace(ASKED, features=features, matching_factor=0.7, diversity_factor=0.3)
    generator, teacher = Generator(8, 1, 8), Teacher(one, model, CPU, WIDE)
    stage = SecondStage(one, model, asked, teacher, generator, device=CPU, dtype=WIDE)
    row = generator.initial(3, 0).double().requires_grad_()
    flat = initial_embeddings(3, 0, 4, 8).double().view(1, -1).requires_grad_()
    shifts = list(draw_shifts(3, 0, 5, teacher.strided))
    images = generator(row, flat.view(4, 8))
    stage.begin(images)
    found = stage.losses([row, flat], images, teacher.see(images, shifts), shifts, batch=0, iteration=5)

    student = PlainStudent(one, model, 3, 4)
    student(images.detach()[:32], [], calibrating=True)

    def gradients(pictures: Tensor) -> Tensor:
        """Those of the last layer (B, classes·F), formed."""
        seen = teacher.see(pictures, shifts)
        logits, read = student(pictures, shifts)
        read = read if features == "quantized" else seen.features
        return torch.einsum("bc,bf->bcf", logits - seen.logits, read).flatten(1)

    def turned(a: Tensor, b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(a, b, dim=1)

    here = gradients(images)
    start = 0.01 * torch.randn(4, 8, generator=draws_of(3, "delta", 0, 5))
    delta = start.double().requires_grad_()
    (slope,) = torch.autograd.grad(
        turned(here.detach(), gradients(generator(row.detach(), flat.detach().view(4, 8) + delta))).sum(), delta
    )
    delta = 2.0 * slope / slope.norm(dim=1, keepdim=True)
    matching = turned(here, gradients(generator(row, flat.view(4, 8) + delta))).mean()
    unit = F.normalize(here, dim=1)
    alike = (unit @ unit.T).abs()
    spread = (alike.sum() - alike.trace()) / 12
    torch.testing.assert_close(found, torch.stack([matching, spread]), rtol=1e-8, atol=1e-10)
    ours = torch.autograd.grad(stage.weighted(found), [row, flat], retain_graph=True)
    theirs = torch.autograd.grad(0.7 * matching + 0.3 * spread, [row, flat])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_synthesis_in_two_stages_goes_on_from_any_step_to_the_same_bits() -> None:
    one = training(model="cifar-resnet", width=2)
    model = model_of(one)

    def fresh() -> Synthesizer:
        return Synthesizer(one, model, ASKED, device=CPU)

    whole = run(fresh()).found()
    assert whole.warm_up is not None
    assert whole.images.shape == whole.warm_up.shape
    assert not torch.equal(whole.images, whole.warm_up)
    assert whole.losses[:, 3:].isnan().all(1).tolist() == [True, True, False, False] * 2
    for stop in (2, 3, 7):  # before the second stage, in its midst, and in that of the second batch
        first = fresh()
        for _ in range(stop):
            first.step()
        state = first.state()
        second = fresh()
        second.restore(state)
        again = run(second).found()
        assert torch.equal(again.images, whole.images)
        assert again.warm_up is not None
        assert torch.equal(again.warm_up, whole.warm_up)
        assert again.row() == whole.row()
        assert list(again.image_rows()) == list(whole.image_rows())
