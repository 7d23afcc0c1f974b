"""Flatness of a ResNet: batch norm is folded through residuals, ω leaves the shortcuts out, the noise does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.measures import Measure, PacBayes, Sharpness
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.measures.point import make_point, round_copies
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.stage import StageTensors
from tests.workers.oracle import Oracle, plain_model, standardized
from tests.workers.trainings import training

CPU = torch.device("cpu")
Model = Mapping[str, Tensor]
SMALL: dict[str, Any] = {"measure_samples": 100, "copies": 2, "iterations": 4}


@pytest.fixture(scope="module")
def trained(digits: Images) -> list[tuple[Training, Model]]:
    """A small ResNet-18 at three precisions, one epoch old."""
    return trained_on(digits, model="resnet")


@pytest.fixture(scope="module")
def preactivated(digits: Images) -> list[tuple[Training, Model]]:
    """A small PreResNet-20 likewise: most of its batch norms stand before a convolution."""
    return trained_on(digits, model="cifar-resnet", preact=True)


def trained_on(digits: Images, **settings: Any) -> list[tuple[Training, Model]]:
    trainings = [
        training(width=2, bits=bits, epochs=1, milestones=[], learning_rate=0.05, **settings) for bits in (32, 4, 2)
    ]
    cohort = Cohort(trainings, digits, slots=3, form=Form.GATHER, device=CPU)
    while not cohort.finished:
        cohort.step()
    return [(one, result.model) for one, result in zip(trainings, cohort.results(), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        PacBayes(**SMALL, noise_std="corrected"),
        PacBayes(**SMALL, perturb="quantized", fold_bn="all", scaling="magnitude"),
        Sharpness(**{**SMALL, "iterations": 2}, ascent_steps=2, ascent_rate=0.05, ascent_batch=50),
    ],
)
def test_a_search_takes_the_oracles_path(
    trained: list[tuple[Training, Model]], digits: Images, measure: Measure
) -> None:
    trainings, models = [one for one, _ in trained], [model for _, model in trained]
    rows = measure_models(trainings, models, measure, digits, device=CPU, dtype=torch.float64)
    for one, model, row in zip(trainings, models, rows, strict=True):
        wanted = Oracle(one, model, measure, digits).search()
        found = [(candidate["radius"], candidate["displacement"]) for candidate in row["trace"]]
        assert found == [(radius, pytest.approx(displacement, abs=1e-9)) for radius, displacement in wanted], one.bits


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        PacBayes(**SMALL, noise_std="corrected", perturb_folded="none"),
        Sharpness(**{**SMALL, "iterations": 2}, ascent_steps=2, ascent_rate=0.05, ascent_batch=50),
    ],
)
def test_a_search_of_a_pre_activation_network_perturbs_each_batch_norm_that_nothing_can_be_folded_into(
    preactivated: list[tuple[Training, Model]], digits: Images, measure: Measure
) -> None:
    trainings, models = [one for one, _ in preactivated], [model for _, model in preactivated]
    rows = measure_models(trainings, models, measure, digits, device=CPU, dtype=torch.float64)
    for one, model, row in zip(trainings, models, rows, strict=True):
        wanted = Oracle(one, model, measure, digits).search()
        found = [(candidate["radius"], candidate["displacement"]) for candidate in row["trace"]]
        assert found == [(radius, pytest.approx(displacement, abs=1e-9)) for radius, displacement in wanted], one.bits


@pytest.mark.parametrize("perturb", ["latent", "quantized"])
def test_folding_batch_norm_through_residuals_leaves_outputs_unchanged(
    trained: list[tuple[Training, Model]],
    preactivated: list[tuple[Training, Model]],
    digits: Images,
    perturb: str,
) -> None:
    pixels, _ = standardized(digits, torch.arange(100))
    for one, model in trained + preactivated:
        network = NETWORKS[one.model.name](one.model, one.data)
        search = PacBayes(fold_bn="all", perturb=perturb)
        point = make_point(one, model, network, search, torch.float64)
        rows = point.parameters[None].clone()
        round_copies(point, rows)
        stages = network.views(network.layout.tensors(rows, rows, point.statistics[None]))
        folded = [stage.norm for stage in stages if isinstance(stage, StageTensors)]
        assert all(norm is None or bool((norm.gamma == 1).all()) for norm in folded)
        wanted = plain_model(one, model)(pixels).detach()
        torch.testing.assert_close(network.evaluate(pixels, stages)[0].T, wanted, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(network.ready(stages)(pixels)[0].T, wanted, rtol=1e-7, atol=1e-9)


def test_every_parameter_is_perturbed_and_norms_leave_the_shortcuts_out(
    trained: list[tuple[Training, Model]], digits: Images
) -> None:
    measure = PacBayes(**{**SMALL, "iterations": 1})
    trainings, models = [one for one, _ in trained], [model for _, model in trained]
    rows = measure_models(trainings, models, measure, digits, device=CPU, dtype=torch.float64)
    for one, model, row in zip(trainings, models, rows, strict=True):
        oracle = Oracle(one, model, measure, digits)
        point = make_point(one, model, NETWORKS[one.model.name](one.model, one.data), measure, torch.float64)
        assert float(point.mask.sum()) == sum(parameter.numel() for parameter in oracle.net.parameters())
        shortcuts = {id(block.shortcut.conv) for block in oracle.net.body if hasattr(block.shortcut, "conv")}
        weights = [conv.weight.detach().flatten() for conv in oracle.net.convs() if id(conv) not in shortcuts]
        assert len(shortcuts) == 3
        assert row["omega"] == torch.cat(weights).numel()
        assert row["weight_norm"] == pytest.approx(float(torch.cat(weights).norm()), rel=1e-9)
        assert row["folded"] == (one.bits == 32)
