"""The searches find what a slow serial oracle finds with the same draws, and what theory says they should."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.measures import MEASURES, Distortion, Flatness, PacBayes, Search, Sharpness
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.measures import BOUNDS, draws, measure_models
from qsweep.workers.measures.ascent import Ascent
from qsweep.workers.measures.bisection import Bisection, Candidate
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.inference import InTurn, SideBySide
from qsweep.workers.measures.perturbation import Climb, Noise, ball_limits, project, start
from qsweep.workers.measures.point import Point, make_point, round_copies
from qsweep.workers.measures.search import run_searches
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.graph import ConvNetwork, make_nodes
from tests.workers.oracle import Oracle, plain_model, standardized
from tests.workers.trainings import training

CPU = torch.device("cpu")
Model = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def trained(digits: Images) -> list[tuple[Training, Model]]:
    """A small NiN at four precisions, three epochs old."""
    trainings = [training(depth=2, width=5, bits=bits, epochs=3, learning_rate=0.05) for bits in (32, 8, 4, 2)]
    cohort = Cohort(trainings, digits, slots=4, form=Form.GATHER, device=CPU)
    while not cohort.finished:
        cohort.step()
    return [(one, result.model) for one, result in zip(trainings, cohort.results(), strict=True)]


def measured(
    trained: list[tuple[Training, Model]], measure: Flatness, images: Images, dtype: torch.dtype = torch.float64
) -> list[dict[str, Any]]:
    trainings, models = [one for one, _ in trained], [model for _, model in trained]
    return measure_models(trainings, models, measure, images, device=CPU, dtype=dtype)


SMALL: dict[str, Any] = {"measure_samples": 300, "copies": 3, "iterations": 8}
CLIMB: dict[str, Any] = {**SMALL, "ascent_steps": 3, "ascent_rate": 0.05, "ascent_batch": 50}
CONVENTIONS: list[Flatness] = [
    PacBayes(**SMALL),
    PacBayes(**SMALL, scaling="magnitude"),
    PacBayes(**SMALL, noise_std="corrected", measure_seed=3),
    PacBayes(**SMALL, noise_std="corrected", scaling="magnitude", perturb_step=False),
    PacBayes(**SMALL, perturb="quantized"),
    PacBayes(**SMALL, perturb="quantized", fold_bn="all"),
    PacBayes(**SMALL, fold_bn="none"),
    Sharpness(**CLIMB),
    Sharpness(**CLIMB, scaling="magnitude"),
]


def test_every_measure_of_sweeps_has_its_implementation() -> None:
    assert sorted([*BOUNDS, Distortion.name]) == sorted(MEASURES)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CONVENTIONS)))
def test_a_search_takes_the_oracles_path(trained: list[tuple[Training, Model]], digits: Images, number: int) -> None:
    measure = CONVENTIONS[number]
    for (one, model), row in zip(trained, measured(trained, measure, digits), strict=True):
        wanted = Oracle(one, model, measure, digits).search()
        found = [(candidate["radius"], candidate["displacement"]) for candidate in row["trace"]]
        assert found == [(radius, pytest.approx(displacement, abs=1e-9)) for radius, displacement in wanted], one.bits
        assert row["radius"] == wanted[-1][0]
        assert row["candidates"] == len(wanted)


def test_a_models_search_does_not_depend_on_its_cohort(trained: list[tuple[Training, Model]], digits: Images) -> None:
    together = measured(trained, CONVENTIONS[0], digits)
    for number, one in enumerate(trained):
        assert measured([one], CONVENTIONS[0], digits) == [together[number]]


def test_a_linear_softmax_model_is_displaced_as_probability_theory_says() -> None:
    """Weights ±μ/2 see the image 1 with the margin μ; noise N(0, s²) on both makes the margin N(μ, 2s²), so that
    the image is right with probability Φ(μ/(s·√2)). The engine counts it with 4,000 noisy copies."""
    margin, copies = 1.0, 4_000
    layer = ConvLayer(name="head", inputs=1, outputs=2, kernel=1, stride=1, padding=0, side=1, norm=False, relu=False)
    network = _Linear(layer)
    layout = network.layout
    parameters = torch.zeros(layout.parameters_length, dtype=torch.float64)
    parameters[:2] = torch.tensor([margin / 2, -margin / 2])
    statistics = layout.initial_statistics().double()
    mask = torch.zeros_like(parameters)
    mask[: layout.weights] = 1.0
    point = Point(
        parameters=parameters, statistics=statistics, initial=parameters[:2], mask=mask, quantizer=None, scale=None,
        folded=True, layout=layout,
    )  # fmt: skip
    evaluation_set = EvaluationSet(
        network, torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    )
    for sigma in (0.3, 0.8, 2.0):
        measure = PacBayes(noise_std="corrected", copies=copies, iterations=1, search_upper=2 * sigma)
        _, (search,) = run_searches([point], measure, evaluation_set, Noise(measure=measure), lambda done, of: None)
        wanted = 0.5 * (1 + math.erf(margin / (sigma * math.sqrt(2)) / math.sqrt(2)))
        assert search.trace[0].accuracy == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / copies))


class _Linear(ConvNetwork):
    """One convolution on one pixel: a linear softmax model."""

    def __init__(self, layer: ConvLayer) -> None:
        self.layout = ConvLayout([layer])
        self.nodes = make_nodes([layer], layer.side)
        self.activation = layer.outputs


def test_the_bisection_finds_the_noise_that_a_linear_softmax_model_bears() -> None:
    """With accuracy Φ(μ/(σ√2)) the displacement is Φ(−μ/(σ√2)) exactly: there the
    search has to end."""
    search, margin = Bisection(PacBayes(tolerance=1e-4, iterations=40)), 0.5
    while not search.over:
        displacement = 0.5 * math.erfc(margin / (search.radius * math.sqrt(2)) / math.sqrt(2))
        search.judge(candidate(search.radius, displacement))
    z = 1.2815515655446004
    assert search.converged
    assert search.radius == pytest.approx(margin / (z * math.sqrt(2)), rel=2e-3)


def candidate(radius: float, displacement: float) -> Candidate:
    return Candidate(radius=radius, accuracies=(), accuracy=0.0, displacement=displacement, clamped_steps=0)


@pytest.mark.parametrize(("displacement", "end"), [(0.0, "upper"), (0.9, "lower"), (math.nan, "lower")])
def test_a_search_that_only_ever_goes_one_way_is_saturated(displacement: float, end: str) -> None:
    search = Bisection(PacBayes())
    while not search.over:
        search.judge(candidate(search.radius, displacement))
    assert (search.saturated_end, search.converged, len(search.trace)) == (end, False, 15)
    limit = 2.0 if end == "upper" else 0.0
    assert abs(search.radius - limit) == 2**-14


def test_a_search_that_stalls_between_is_neither_saturated_nor_converged() -> None:
    search = Bisection(PacBayes())
    while not search.over:
        search.judge(candidate(search.radius, 0.0 if search.radius < 0.7 else 0.9))
    assert (search.saturated_end, search.converged) == (None, False)
    assert search.radius == pytest.approx(0.7, abs=2e-4)


def points_of(trained: list[tuple[Training, Model]], measure: Search) -> tuple[Any, list[Point]]:
    first = trained[0][0]
    network = NETWORKS[first.model.name](first.model, first.data)
    return network, [make_point(one, model, network, measure, torch.float64) for one, model in trained]


def test_the_projection_is_exact(trained: list[tuple[Training, Model]]) -> None:
    torch.manual_seed(1)
    _, (point, *_) = points_of(trained, Sharpness())
    moved = torch.randn(6, point.parameters.numel(), dtype=torch.float64)
    moved *= torch.tensor([[1e-9], [0.1], [1], [9], [0], [3]])
    inside = moved.clone()
    project(moved, None, 0.7)
    assert (moved.norm(dim=1) <= 0.7 + 1e-6).all()
    assert torch.equal(moved[[0, 4]], inside[[0, 4]])
    torch.testing.assert_close(moved[3], inside[3] * (0.7 / inside[3].norm()), rtol=1e-12, atol=0)
    for ball in ("relative", "relative-plus-one"):
        limit = ball_limits(Sharpness(scaling="magnitude", ball=ball), point)
        assert limit is not None
        boxed = inside.clone()
        project(boxed, limit, 0.3)
        size = point.parameters.abs() + (ball == "relative-plus-one")
        wanted = torch.minimum(torch.maximum(inside, -0.3 * size * point.mask), 0.3 * size * point.mask)
        assert torch.equal(boxed, wanted)


@pytest.mark.parametrize("scaling", ["plain", "magnitude"])
def test_starts_fill_the_ball_and_leave_unperturbed_parameters_alone(
    trained: list[tuple[Training, Model]], scaling: str
) -> None:
    measure = Sharpness(scaling=scaling, copies=50)
    _, points = points_of(trained, measure)
    for point in points:
        begun = start(measure, point, ball_limits(measure, point), 0.4, 0)
        assert (begun[:, point.mask == 0] == 0).all()
        if scaling == "plain":
            lengths = begun.norm(dim=1)
            assert (lengths <= 0.4 + 1e-6).all()
            assert float(lengths.std()) > 0
        else:
            assert (begun.abs() <= 0.4 * point.parameters.abs() + 1e-12).all()


@pytest.mark.parametrize("scaling", ["plain", "magnitude"])
def test_an_ascent_raises_the_loss(trained: list[tuple[Training, Model]], digits: Images, scaling: str) -> None:
    base = Sharpness(scaling=scaling, start="centre", copies=1, ascent_rate=0.02, ascent_steps=10, ascent_batch=400)
    network, points = points_of(trained, base)

    def loss(rows: Tensor, point: Point) -> float:
        deployed = rows.clone()
        round_copies(point, deployed)
        stages = network.views(network.layout.tensors(rows, deployed, point.statistics[None]))
        pixels, labels = standardized(digits, torch.arange(400))
        logits = network.evaluate(pixels, stages)[0]
        return float(torch.nn.functional.cross_entropy(logits.T, labels))

    climb = Climb(measure=base, network=network, images=lambda some: standardized(digits, some), train_images=400)
    for point in points[:3]:
        ended = climb.rows([point], [0.5], 0)
        assert loss(ended, point) > loss(point.parameters[None], point) * 1.05


def test_gradients_are_those_of_plain_modules(trained: list[tuple[Training, Model]], digits: Images) -> None:
    measure = Sharpness()
    network, points = points_of(trained, measure)
    pixels, labels = standardized(digits, torch.arange(90))
    for (one, model), point in zip(trained, points, strict=True):
        still = torch.zeros_like(point.parameters[None])
        found = Ascent(network, [point], 1).gradients(still, pixels, labels)
        oracle = Oracle(one, model, measure, digits)
        places = oracle.places(oracle.net)
        loss = torch.nn.functional.cross_entropy(oracle.net(pixels), labels)
        gradients = torch.autograd.grad(loss, [parameter for parameter, _ in places])
        for (_, place), gradient in zip(places, gradients, strict=True):
            torch.testing.assert_close(found[0, place], gradient.flatten(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("perturb", ["latent", "quantized"])
def test_folding_batch_norm_leaves_outputs_unchanged(
    trained: list[tuple[Training, Model]], digits: Images, perturb: str
) -> None:
    measure = PacBayes(fold_bn="all", perturb=perturb)
    network, points = points_of(trained, measure)
    pixels, _ = standardized(digits, torch.arange(200))
    for (one, model), point in zip(trained, points, strict=True):
        rows = point.parameters[None].clone()
        round_copies(point, rows)
        stages = network.views(network.layout.tensors(rows, rows, point.statistics[None]))
        found = network.evaluate(pixels, stages)[0].T
        torch.testing.assert_close(found, plain_model(one, model)(pixels).detach(), rtol=1e-7, atol=1e-9)
        assert point.folded


def test_norms_are_over_weights_alone_and_folded_where_the_reference_folds(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    rows = measured(trained, PacBayes(**{**SMALL, "iterations": 1}), digits)
    for (one, model), row in zip(trained, rows, strict=True):
        oracle = Oracle(one, model, PacBayes(), digits)
        weights = torch.cat([conv.weight.detach().flatten() for conv in oracle.net.convs()])
        assert row["omega"] == weights.numel()
        assert row["weight_norm"] == pytest.approx(float(weights.norm()), rel=1e-9)
        assert row["folded"] == (one.bits == 32)
        assert (row["m"], row["samples"]) == (1442, 300)


def test_whatever_the_seed_sigma_displaces_by_the_target_to_the_searchs_resolution(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    """The resolution: a search accepts a mean over ten copies within 0.01 of the target, and that mean has its
    own standard error. So at the σ of any seed the displacement, measured again with 60 other copies, lies
    within 0.01 plus four standard errors (of both means) of 0.1."""
    for seed in range(5):
        (row,) = measured(trained[:1], PacBayes(noise_std="corrected", measure_seed=seed), digits, torch.float32)
        assert row["converged"]
        spread = torch.tensor(row["trace"][-1]["accuracies"]).double().std()
        again = PacBayes(
            noise_std="corrected", measure_seed=100 + seed, copies=60, iterations=1, search_upper=2 * row["radius"]
        )
        (check,) = measured(trained[:1], again, digits, torch.float32)
        error = float(spread) * (1 / 10 + 1 / 60) ** 0.5
        assert abs(check["reached"] - 0.1) < 0.01 + 4 * error, (seed, row["radius"], check["reached"], error)


def test_the_same_seed_gives_the_same_search_and_another_another(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    first, again, other = (
        measured(trained, PacBayes(**SMALL, measure_seed=seed), digits, torch.float32) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_steps_that_noise_takes_below_zero_are_clamped_and_counted(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    rows = measured(trained, PacBayes(**{**SMALL, "iterations": 1}), digits)
    counts = [row["trace"][0]["clamped_steps"] for row in rows]
    assert counts[0] == 0
    assert all(count > 0 for count in counts[1:])


def test_a_sample_is_balanced_and_seeded(digits: Images) -> None:
    places = draws.balanced(digits.train_labels, 300, 0)
    assert torch.bincount(digits.train_labels[places]).tolist() == [30] * 10
    assert len(places.unique()) == 300
    assert torch.equal(places, draws.balanced(digits.train_labels, 300, 0))
    assert not torch.equal(places, draws.balanced(digits.train_labels, 300, 1))
    assert torch.equal(draws.balanced(digits.train_labels, 0, 0), torch.arange(1442))


def test_hits_are_the_same_for_any_number_of_models_in_one_pass(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    network, points = points_of(trained, PacBayes(fold_bn="none", perturb="quantized"))
    pixels, labels = standardized(digits, torch.arange(1442))
    rows = torch.stack([point.parameters for point in points])
    statistics = torch.stack([point.statistics for point in points])
    evaluation_set = EvaluationSet(network, pixels, labels)
    together = evaluation_set.hits(rows, statistics)
    alone = torch.cat([evaluation_set.hits(rows[one : one + 1], statistics[one : one + 1]) for one in range(4)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("settings", [{"depth": 2, "width": 5}, {"model": "resnet", "depth": 50, "width": 2}])
def test_models_judged_in_turn_hit_what_they_hit_side_by_side(digits: Images, settings: dict[str, Any]) -> None:
    one = training(**settings)
    network = NETWORKS[one.model.name](one.model, one.data)
    layout = network.layout
    torch.manual_seed(2)
    rows = torch.stack([layout.initial_parameters(seed).double() for seed in range(3)])
    rows += 0.1 * torch.randn_like(rows)
    statistics = layout.initial_statistics().double().repeat(3, 1)
    statistics += 0.1 * torch.rand_like(statistics)
    pixels, labels = standardized(digits, torch.arange(0, 1442, 4))
    found = InTurn(network, pixels, labels).hits(rows, statistics)
    assert torch.equal(found, SideBySide(network, pixels, labels).hits(rows, statistics))
    assert len(set(found.tolist())) > 1
