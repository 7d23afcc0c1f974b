"""The built-in grids hold exactly the paper's configurations."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import builtin_names, read_sweep
from qsweep.sweeps.grid import Settings
from qsweep.sweeps.job import Job, stored_settings
from qsweep.sweeps.spec import Axis, Spec
from qsweep.sweeps.training import Training

RATES = {"sgd": {0.1, 0.05, 0.01}, "adam": {0.001, 0.0005, 0.0001}, "rmsprop": {0.001, 0.0005, 0.0001}}


@pytest.mark.parametrize(("name", "depths"), [("cifar10-grid", {2, 3, 4}), ("cifar100-grid", {3, 4, 5})])
def test_a_cifar_grid_is_every_combination_of_the_papers_values_once(name: str, depths: set[int]) -> None:
    found = [
        (s["optimizer"], s["learning_rate"], s["weight_decay"], s["width"], s["depth"], s["bits"])
        for s in (job.settings() for job in read_sweep(name).jobs())
    ]
    wanted = {
        (optimizer, rate, decay, width, depth, bits)
        for optimizer, rates in RATES.items()
        for rate, decay, width, depth, bits in itertools.product(
            rates, (0.0, 1e-4, 2e-4), (8, 10, 12), depths, (32, 8, 4, 2)
        )
    }
    assert len(found) == 972
    assert set(found) == wanted


@pytest.mark.parametrize("name", ["cifar10-grid", "cifar100-grid"])
def test_every_cifar_training_follows_the_papers_recipe(name: str) -> None:
    for job in read_sweep(name).jobs():
        settings = job.settings()
        assert (settings["epochs"], settings["batch_size"], settings["milestones"]) == (300, 128, (100, 200))
        assert (settings["lr_factor"], settings["augment"], settings["channels_per_width"]) == (
            0.1,
            "crop-flip",
            25,
        )
        assert settings.get("momentum") == (0.9 if settings["optimizer"] == "sgd" else None)
        assert settings.get("outer_bits") == (None if settings["bits"] == 32 else 8)


def test_the_digits_grid_has_the_same_shape() -> None:
    settings = [job.settings() for job in read_sweep("digits-grid").jobs()]
    assert len(settings) == 972
    for name, count in {"optimizer": 3, "weight_decay": 3, "width": 3, "depth": 3, "bits": 4}.items():
        assert len({one[name] for one in settings}) == count
    for optimizer in RATES:
        assert len({one["learning_rate"] for one in settings if one["optimizer"] == optimizer}) == 3


def test_every_builtin_sweep_survives_the_registry() -> None:
    for name in builtin_names():
        spec = read_sweep(name)
        again = Spec.from_json(spec.to_json(), place="registry")
        jobs = spec.jobs()
        assert again.jobs() == jobs
        assert all(Job.from_json(job.to_json()) == job for job in jobs)


def test_the_nin_of_the_paper_has_its_number_of_weights() -> None:
    job = next(
        job
        for job in read_sweep("cifar10-grid").jobs()
        if (job.settings()["depth"], job.settings()["width"]) == (4, 10)
    )
    assert sum(layer.weights for layer in job.training.model.layers(job.training.data)) == 2_196_750


def test_a_grid_that_differs_in_a_type_alone_is_another_one() -> None:
    """Expanded grids are kept, and to a dictionary 1, 1.0 and True are one key."""
    spec = read_sweep("digits-grid")
    same = Spec.from_json(spec.to_json(), place="registry")
    assert spec._grid is same._grid
    assert spec.jobs() == same.jobs()
    given = dict(spec.fixed)
    assert given["epochs"] == 24
    other = replace(spec, fixed=tuple((given | {"epochs": 24.0}).items()))
    with pytest.raises(InputError, match="is not a whole number"):
        other.jobs()


def test_an_error_of_a_grid_names_the_place_of_each_that_has_it() -> None:
    spec = read_sweep("digits-grid")
    spec = replace(spec, axes=(*spec.axes, Axis(name="seed", values=(-1,))))
    for place in ("one.toml", "other.toml"):
        with pytest.raises(InputError, match=f"^{place}: seed: -1 is not allowed"):
            replace(spec, place=place).jobs()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits-grid", ()),
        ("digits-sam", ()),
        ("digits-flatness", ("bits=[32,2]", "depth=2")),
        ("digits-sam", ("method=sam", "rho=0.1", "ascent_images=[0,16,64]", "batch_size=[32,64]")),
    ],
)
def test_a_grids_jobs_are_those_that_their_settings_describe_one_by_one(name: str, changes: tuple[str, ...]) -> None:
    jobs = read_sweep(name, changes).jobs()
    settings = Settings(jobs)
    assert len(set(jobs.identities)) == len(jobs)
    for job in jobs:
        alone = Job(
            training=Training.from_settings(job.settings()), kind=job.kind, parent=job.parent, measure=job.measure
        )
        assert alone == job
        assert (alone.identity, alone.cohort_key) == (job.identity, job.cohort_key)
        assert settings[job.identity] == alone.settings()
        assert stored_settings(job.to_json()) == alone.settings()
        assert list(stored_settings(job.to_json())) == list(alone.settings())


def test_settings_that_were_stored_without_a_later_one_are_completed() -> None:
    job = read_sweep("digits-grid").jobs()[0]
    content = json.loads(job.to_json())
    del content["settings"]["val_fraction"]
    assert stored_settings(json.dumps(content)) == job.settings()
