"""The training methods as settings: which are one job, which train side by side, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.sweeps.components import PARTS
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers.models import NETWORKS
from tests.sweeps.test_identity import BASE
from tests.workers.trainings import training

SAQ = ("saq1", "saq2", "saq3")


def job(**changes: Any) -> Job:
    return Job(training=Training.from_settings({**BASE, **changes}))


def test_saqs_second_case_is_sam_and_so_is_every_case_in_full_precision() -> None:
    assert job(bits=4, method="saq2", rho=0.1) == job(bits=4, method="sam", rho=0.1)
    full = {job(bits=32, method=name, rho=0.1).identity for name in ("sam", *SAQ)}
    assert full == {job(bits=32, method="sam", rho=0.1, ball_steps=True).identity}
    assert job(bits=32, method="saq1", rho=0.1, case1_gradient="float").identity in full
    assert job(bits=32, method="saq1", rho=0.1, bn_second_pass=True).identity not in full


def test_methods_radii_and_options_are_jobs_of_their_own() -> None:
    chosen: list[dict[str, Any]] = [
        {},
        *({"method": name, "rho": 0.1} for name in ("sam", "asam", "saq1", "saq3")),
        {"method": "sam", "rho": 0.2},
        {"method": "sam", "rho": 0.1, "ball_steps": True},
        {"method": "saq3", "rho": 0.1, "bn_second_pass": True},
        {"method": "saq1", "rho": 0.1, "case1_gradient": "float"},
        {"method": "asam", "rho": 0.1, "asam": "saq"},
        {"method": "asam", "rho": 0.1, "eta": 0.0},
        {"method": "sam", "rho": 0.1, "ascent_images": 32},
    ]
    jobs = [job(bits=4, **one) for one in chosen]
    assert len({one.identity for one in jobs}) == len(jobs)
    assert all(Job.from_json(one.to_json()) == one for one in jobs)


def test_parts_of_a_batch_are_cohorts_of_their_own_and_one_as_large_as_the_batch_is_none() -> None:
    whole = job(bits=4, method="saq3", rho=0.1)
    assert job(bits=4, method="saq3", rho=0.1, ascent_images=128).identity == whole.identity
    parts = [job(bits=bits, method=name, rho=0.1, ascent_images=32) for name in ("sam", "saq3") for bits in (4, 2)]
    assert len({one.cohort_key for one in (whole, *parts)}) == 2
    with pytest.raises(InputError, match="ascent_images"):
        training(model="nin", depth=3, method="sam", rho=0.1, batch_size=104, ascent_images=103)


def test_the_number_of_passes_alone_parts_cohorts() -> None:
    plain = job(bits=4)
    sharp = [
        job(bits=bits, method=name, rho=rho) for name in ("sam", "asam", *SAQ) for rho in (0.0, 0.1) for bits in (32, 2)
    ]
    assert len({one.cohort_key for one in sharp}) == 1
    assert plain.cohort_key != sharp[0].cohort_key
    assert plain.shape == sharp[0].shape
    a_pass = plain.training.operations / 3
    assert sharp[0].cost == pytest.approx(2 * plain.cost, abs=a_pass)


@pytest.mark.parametrize(
    ("changes", "problem", "allowed"),
    [
        ({"method": "sap", "rho": 0.1}, "method: 'sap' is not known", "'sam'"),
        ({"method": "sam", "rho": -0.1}, "rho: -0.1 is not allowed", "0 or more"),
        ({"method": "saq3", "rho": math.inf}, "rho: inf is not allowed", "0 or more"),
        ({"method": "sam"}, "rho is missing", "0 or more"),
        ({"method": "asam", "rho": 0.1, "asam": "mine"}, "asam: 'mine' is not allowed", "official, saq"),
        (
            {"method": "saq1", "rho": 0.1, "case1_gradient": "x"},
            "case1_gradient: 'x' is not",
            "straight-through, float",
        ),
        ({"method": "sam", "rho": 0.1, "ball_steps": 1}, "ball_steps: 1 is not true or false", ""),
    ],
)
def test_a_wrong_method_or_setting_of_one_is_refused(changes: dict[str, Any], problem: str, allowed: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        job(bits=4, **changes)
    assert allowed in (caught.value.allowed or "")


def test_an_option_without_its_method_is_refused_as_an_axis_and_said_as_a_setting(tmp_path: Path) -> None:
    change = ["method=sam", "rho=0.1"]
    with pytest.raises(InputError, match="no job uses this setting") as caught:
        read_sweep("digits-grid", [*change, "eta=[0.1, 0.2]"]).jobs()
    assert "axes.eta" in str(caught.value.place)
    assert read_sweep("digits-grid", ["rho=0.1"]).unused() == ["rho"]


@pytest.mark.parametrize(
    "settings", [{}, {"model": "vgg"}, {"model": "resnet", "stem": "large"}, {"model": "mobilenet"}]
)
def test_the_norm_of_initial_weights_is_that_of_weights_as_they_are_drawn(settings: dict[str, Any]) -> None:
    one = training(**{"data": "cifar10", "width": 8, **settings})
    layout = NETWORKS[one.model.name](one.model, DATASETS["cifar10"]).layout
    drawn = layout.initial_parameters(0)[: layout.weights]
    assert one.initial_norm == pytest.approx(float(torch.linalg.vector_norm(drawn)), rel=0.05)


def test_every_method_of_two_passes_is_computed_by_one_class() -> None:
    two = [one for one in PARTS["method"].components.values() if getattr(one.settings, "passes", 1) == 2]
    assert len(two) == 5
    assert len({(one.kind, one.implementation) for one in two}) == 1
