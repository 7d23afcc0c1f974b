"""Landscapes are what plain models lose at the same points, and what theory says of a linear one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.landscape import BETWEEN, LINE, Landscape
from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.landscape import Survey
from qsweep.workers.landscape.directions import cosine, filter_normalized, gaussian_direction
from qsweep.workers.measures import draws, evaluation_set
from qsweep.workers.measures.inference import InTurn, SideBySide
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.graph import ConvNetwork
from tests.workers.oracle import deploy, plain_model, standardized
from tests.workers.plain import Plain, named
from tests.workers.trainings import training

CPU = torch.device("cpu")
Model = Mapping[str, Tensor]
Trained = tuple[Training, Model, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(digits: Images) -> list[Trained]:
    """A small NiN at four precisions, three epochs old."""
    trainings = [training(depth=2, width=5, bits=bits, epochs=3, learning_rate=0.05) for bits in (32, 8, 4, 2)]
    cohort = Cohort(trainings, digits, slots=4, form=Form.GATHER, device=CPU)
    while not cohort.finished:
        cohort.step()
    return [(one, result.model, result.run) for one, result in zip(trainings, cohort.results(), strict=True)]


def survey(models: Sequence[Trained], asked: Landscape, images: Images, dtype: torch.dtype = torch.float32) -> Survey:
    return Survey([one for one, _, _ in models], [model for _, model, _ in models], asked, images,
                  device=CPU, dtype=dtype)  # fmt: skip


def plain_loss(net: Plain, images: Images, places: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a plain model in float64."""
    pixels, labels = standardized(images, places)
    with torch.no_grad():
        logits = net(pixels)
    return float(torch.nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


def test_each_filter_of_a_direction_has_the_norm_of_the_models_filter(trained: list[Trained]) -> None:
    one, model, _ = trained[0]
    layout = ConvLayout(one.model.layers(one.data))
    parameters = layout.packed(model)[0].double()
    raw = gaussian_direction(layout, 3, 0)
    found = dict(layout.named(filter_normalized(raw, parameters, layout), layout.initial_statistics()))
    drawn = dict(layout.named(raw.double(), layout.initial_statistics()))
    for layer in layout.layers:
        weight = model[f"{layer.name}.weight"].double()
        for channel in range(layer.outputs):
            direction = drawn[f"{layer.name}.weight"][channel].flatten().tolist()
            norm = math.sqrt(sum(float(value) ** 2 for value in weight[channel].flatten()))
            factor = norm / (math.sqrt(sum(value**2 for value in direction)) + 1e-10)
            expected = [value * factor for value in direction]
            assert found[f"{layer.name}.weight"][channel].flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_only_weights_are_moved(trained: list[Trained]) -> None:
    one, model, _ = trained[3]
    layout = ConvLayout(one.model.layers(one.data))
    direction = filter_normalized(gaussian_direction(layout, 0, 0), layout.packed(model)[0], layout)
    assert direction[: layout.weights].count_nonzero() == layout.weights
    assert direction[layout.weights :].count_nonzero() == 0


def test_precisions_share_their_raw_directions_and_the_two_differ(trained: list[Trained]) -> None:
    one = trained[0][0]
    layout = ConvLayout(one.model.layers(one.data))
    of_precision = [
        filter_normalized(gaussian_direction(layout, 0, 0), layout.packed(trained[number][1])[0], layout)
        for number in (0, 3)
    ]
    for spans in layout.spans:
        full, rounded = (spans.weight.of(row[None])[0].flatten(1).double() for row in of_precision)
        cosines = (full * rounded).sum(1) / (full.norm(dim=1) * rounded.norm(dim=1))
        assert cosines.tolist() == pytest.approx([1] * len(full))
    wider = ConvLayout(training(depth=2, width=7).model.layers(one.data))
    first, second = (gaussian_direction(layout, 0, number) for number in (0, 1))
    assert torch.equal(first, gaussian_direction(layout, 0, 0))
    assert not torch.equal(first, gaussian_direction(layout, 1, 0))
    assert abs(cosine(first, second)) < 0.1
    assert cosine(first, first) == pytest.approx(1)
    assert first[: layout.weights].double().std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(first[:100], gaussian_direction(wider, 0, 0)[:100])


@pytest.mark.parametrize("perturb", ["latent", "quantized"])
def test_the_centre_of_a_plane_is_the_recorded_training_loss(
    trained: list[Trained], digits: Images, perturb: str
) -> None:
    for one in trained:
        found = survey([one], Landscape(points=3, perturb=perturb), digits).scores(4, 1)
        assert found.losses == pytest.approx([one[2]["train_loss"]], rel=1e-6)
        assert found.accuracies == pytest.approx([one[2]["train_accuracy"]], abs=1 / 1442)


@pytest.mark.parametrize("perturb", ["latent", "quantized"])
def test_a_point_of_a_plane_is_the_loss_of_the_plain_model_moved_there(
    trained: list[Trained], digits: Images, perturb: str
) -> None:
    asked = Landscape(points=5, radius=0.6, perturb=perturb, samples=200, seed=5)
    places = draws.balanced(digits.train_labels, 200, 5)
    for one, model, run in trained:
        layout = ConvLayout(one.model.layers(one.data))
        found = survey([(one, model, run)], asked, digits, torch.float64).scores(0, 25)
        net = plain_model(one, model)
        if perturb == "quantized":
            deploy(net)
        raw = [dict(layout.named(gaussian_direction(layout, 5, n).double(), torch.zeros(10_000))) for n in (0, 1)]
        weights = {name: value for name, value in named(net, one).items() if name in raw[0] and value.dim() == 4}
        assert len(weights) == len(layout.layers)
        start = {name: value.clone() for name, value in weights.items()}
        for place, (x, y) in {7: (-0.3, 0.0), 24: (0.6, 0.6), 15: (0.3, -0.6)}.items():
            assert asked.coordinates(place) == pytest.approx((x, y))
            for name, value in weights.items():
                moved = start[name].clone()
                for distance, direction in zip((x, y), raw, strict=True):
                    for channel in range(len(moved)):
                        d = direction[name][channel]
                        moved[channel] += distance * d * (start[name][channel].norm() / (d.norm() + 1e-10))
                value.copy_(moved)
            loss, accurate = plain_loss(net, digits, places)
            assert found.losses[place] == pytest.approx(loss, rel=1e-9)
            assert found.accuracies[place] == pytest.approx(accurate)


def test_the_plane_of_a_linear_softmax_model_is_the_closed_form(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a linear model are linear in x and y, so its loss is a log-sum-exp of three products by numpy."""
    layer = ConvLayer(name="head", inputs=1, outputs=10, kernel=8, stride=1, padding=0, side=1, norm=False, relu=False)
    one = training()
    linear = SimpleNamespace(layers=lambda data: (layer,))
    monkeypatch.setitem(NETWORKS, "nin", lambda model, data: ConvNetwork(linear, data))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 1, 8, 8, generator=generator, dtype=torch.float64) / 8
    bias = torch.randn(10, generator=generator, dtype=torch.float64)
    model = {"head.weight": weight, "head.bias": bias, "head.step": torch.ones((), dtype=torch.float64)}
    asked = Landscape(points=7, radius=1.5, seed=2)
    found = survey([(one, model, {})], asked, digits, torch.float64)
    scores = found.scores(0, asked.size)

    pixels, labels = (part.numpy() for part in standardized(digits, torch.arange(1442)))
    flat, w = pixels.reshape(1442, 64), weight.numpy().reshape(10, 64)
    products = [flat @ w.T + bias.numpy()]
    for number in (0, 1):
        drawn = torch.empty(10, 1, 8, 8)
        drawn.normal_(generator=draws.generator(2, "direction/head", number, 10, 1, 8, 8))
        d = drawn.double().numpy().reshape(10, 64)
        d = d * (np.linalg.norm(w, axis=1) / (np.linalg.norm(d, axis=1) + 1e-10))[:, None]
        products.append(flat @ d.T)
    axis = np.linspace(-1.5, 1.5, 7)
    for place, (x, y) in enumerate((x, y) for x in axis for y in axis):
        logits = products[0] + x * products[1] + y * products[2]
        high = logits.max(1)
        losses = np.log(np.exp(logits - high[:, None]).sum(1)) + high - logits[np.arange(1442), labels]
        assert scores.losses[place] == pytest.approx(losses.mean(), rel=1e-12)
        assert scores.accuracies[place] == pytest.approx((logits.argmax(1) == labels).mean())


def test_a_line_ends_at_both_models_and_is_straight_between_them(trained: list[Trained], digits: Images) -> None:
    asked = Landscape(view=BETWEEN, points=4, perturb="quantized")
    ends = [trained[0], trained[3]]
    found = survey(ends, asked, digits)
    scores = found.scores(0, 4)
    assert [scores.losses[0], scores.losses[3]] == pytest.approx([end[2]["train_loss"] for end in ends], rel=1e-6)
    alone = [survey([end], Landscape(points=3, perturb="quantized"), digits).scores(4, 1).losses[0] for end in ends]
    assert [scores.losses[0], scores.losses[3]] == alone

    nets = [plain_model(one, model) for one, model, _ in ends]
    deploy(nets[1])
    third = plain_model(ends[0][0], ends[0][1])
    with torch.no_grad():
        parts = zip(*(named(net, ends[0][0]).values() for net in (third, *nets)), strict=True)
        for place, first, second in parts:
            place.copy_(first * 2 / 3 + second / 3)
    loss, _ = plain_loss(third, digits, torch.arange(1442))
    exact = survey(ends, asked, digits, torch.float64).scores(1, 1)
    assert exact.losses == pytest.approx([loss], rel=1e-9)


def test_latent_models_of_one_precision_are_rounded_on_the_line_between_them(
    trained: list[Trained], digits: Images
) -> None:
    one, model, run = trained[2]
    halved = {name: value / 2 if name.endswith((".step", "weight")) and ".norm" not in name else value
              for name, value in model.items()}  # fmt: skip
    asked = Landscape(view=BETWEEN, points=3)
    found = survey([(one, model, run), (one, halved, {})], asked, digits, torch.float64).scores(0, 3)
    middle = {name: (value + halved[name]) / 2 for name, value in model.items()}
    loss, _ = plain_loss(plain_model(one, middle), digits, torch.arange(1442))
    assert found.losses[1] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("number", [0, 3])
def test_a_points_bits_do_not_depend_on_what_is_computed_with_it(
    trained: list[Trained], digits: Images, number: int
) -> None:
    found = survey([trained[number]], Landscape(points=5, samples=400), digits)
    whole = found.scores(0, 25)
    assert 1 < found.full_pass < 25
    for count in (1, 3, 10):
        parts = [found.scores(first, count) for first in range(0, 25, count)]
        assert sum((part.losses for part in parts), ()) == whole.losses
        assert sum((part.accuracies for part in parts), ()) == whole.accuracies
    again = survey([trained[number]], Landscape(points=5, samples=400), digits).scores(7, 5)
    assert again.losses == whole.losses[7:12]


def test_a_line_is_the_middle_of_the_plane(trained: list[Trained], digits: Images) -> None:
    plane = survey([trained[1]], Landscape(points=5), digits)
    line = survey([trained[1]], Landscape(view=LINE, points=5), digits)
    assert line.scores(0, 5).losses == plane.scores(0, 25).losses[2::5]
    assert line.cosine is None
    assert plane.cosine is not None
    assert abs(plane.cosine) < 0.2


def test_models_judged_in_turn_lose_what_they_lose_side_by_side(trained: list[Trained], digits: Images) -> None:
    one = trained[0][0]
    network = NETWORKS[one.model.name](one.model, one.data)
    rows, moments = zip(*(network.layout.packed(model) for _, model, _ in trained), strict=True)
    pixels, labels = standardized(digits, torch.arange(1442))
    given = torch.stack(rows).double(), torch.stack(moments).double()
    beside, in_turn = (kind(network, pixels, labels).scores(*given) for kind in (SideBySide, InTurn))
    assert beside.sums.tolist() == pytest.approx(in_turn.sums.tolist(), rel=1e-12)
    assert torch.equal(beside.hits, in_turn.hits)


def test_the_weights_of_a_pass_fit_their_memory(
    trained: list[Trained], digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained[0]
    row = 4 * ConvLayout(one[0].model.layers(one[0].data)).parameters_length
    whole = survey([one], Landscape(points=3), digits)
    monkeypatch.setattr(evaluation_set, "CPU_ROWS", 2 * row + 1)
    bounded = survey([one], Landscape(points=3), digits)
    assert (whole.full_pass > 2, bounded.full_pass) == (True, 2)
    assert bounded.scores(0, 9).losses == pytest.approx(whole.scores(0, 9).losses, rel=1e-6)


def test_a_model_that_overflows_has_no_finite_loss(trained: list[Trained], digits: Images) -> None:
    wild = {name: value * 1e30 if "norm" not in name else value for name, value in trained[0][1].items()}
    lost = survey([(trained[0][0], wild, {})], Landscape(points=3), digits)
    assert not any(math.isfinite(loss) for loss in lost.scores(0, 9).losses)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"points": 50}, "points: 50 is not allowed; allowed: an odd number"),
        ({"points": 1}, "points: 1 is not allowed"),
        ({"points": 203}, "points: 203 is not allowed; allowed: up to 201 a side"),
        ({"radius": 0.0}, "radius: 0.0 is not allowed"),
        ({"perturb": "both"}, "perturb: 'both' is not allowed; allowed: latent, quantized"),
    ],
)
def test_what_can_not_be_asked_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Landscape.from_settings(settings)


def test_a_sample_needs_every_class_and_no_more_than_there_are(trained: list[Trained], digits: Images) -> None:
    for samples in (9, 1443):
        with pytest.raises(InputError, match=r"samples: .*10 to 1442 images of Digits"):
            survey([trained[0]], Landscape(points=3, samples=samples), digits)


def test_a_line_needs_one_architecture_and_one_rounding(trained: list[Trained], digits: Images) -> None:
    other = training(depth=3, width=5)
    with pytest.raises(InputError, match="share no architecture"):
        survey([trained[0], (other, {}, {})], Landscape(view=BETWEEN), digits)
    with pytest.raises(InputError, match=r"no common rounding.*--perturb quantized"):
        survey([trained[0], trained[3]], Landscape(view=BETWEEN), digits)


def test_an_identity_names_what_is_asked_and_of_which_model() -> None:
    models = [("job", 1, "hash")]
    plain = Landscape().identity(models)
    assert plain == Landscape().identity(models)
    others = [Landscape(points=25), Landscape(seed=1), Landscape(perturb="quantized"), Landscape(samples=100)]
    assert len({plain, *(one.identity(models) for one in others)}) == 5
    assert Landscape().identity([("job", 2, "hash")]) != plain
    full = training(bits=32)
    assert Landscape(perturb="quantized").asked_of(full) == Landscape()
    assert Landscape(perturb="quantized").asked_of(training(bits=4)).perturb == "quantized"
