"""Measures are jobs of their own kind: declared in sweep files, children of trainings, with identities that last."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from qsweep.sweeps import kinds
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.measures import (
    MEASURES,
    Distortion,
    Measure,
    PacBayes,
    Sharpness,
    asked_of,
    measure_from,
    measure_settings,
)
from qsweep.sweeps.settings import names_of
from qsweep.sweeps.spec import Spec, select
from qsweep.sweeps.training import Training

BASE: dict[str, Any] = {
    "data": "digits", "model": "nin", "width": 8, "depth": 2, "optimizer": "sgd", "learning_rate": 0.1,
    "weight_decay": 1e-4, "epochs": 3, "batch_size": 64,
}  # fmt: skip
FILE = """
[fixed]
data = "digits"
model = "nin"
width = 8
depth = 2
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
epochs = 3
batch_size = 64

[axes]
bits = [32, 4]

[[measures]]
measure = "pac_bayes"
noise_std = ["reference", "corrected"]
perturb = ["latent", "quantized"]

[[measures]]
measure = "sharpness"
copies = 3
"""


DISTORTION = 'measure = "distortion"\ncorruption = "{}"\nseverity = {}\n'


def training(**changes: Any) -> Training:
    return Training.from_settings({**BASE, "bits": 4, **changes})


def child(measure: Measure, **changes: Any) -> Job:
    parent = Job(training=training(**changes))
    kind = kinds.DISTORTION if isinstance(measure, Distortion) else kinds.FLATNESS
    return Job(training=parent.training, kind=kind, parent=parent.identity, measure=measure)


def sweep(tmp_path: Path, text: str = FILE) -> Spec:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_sweep(str(path))


def test_the_identity_of_a_measure_never_changes() -> None:
    assert child(PacBayes(perturb_folded="none")).identity == "159f026222e2ee2b389adf5b38a20470"  # as it always was
    assert child(PacBayes()).identity == "f56c7171844e893a9f8c739146bdaa9d"
    assert child(Sharpness(perturb_folded="none")).identity == "26b134a5826a3a80bcc6ae4edcd644e7"
    assert child(Sharpness()).identity == "a494a4971171cea9f185ba8549f2c8e5"
    assert child(Distortion(corruption="fog", severity=3)).identity == "d6949352cca6b454d8a4acc8dba4db54"


CHANGED: list[Measure] = [
    PacBayes(copies=7, perturb="quantized", measure_samples=500),
    Sharpness(copies=7, perturb="quantized", measure_samples=500),
    Distortion(corruption="zoom_blur", severity=2, corruption_seed=4, measure_samples=50),
]
USUAL: dict[str, Measure] = {
    "pac_bayes": PacBayes(),
    "sharpness": Sharpness(),
    "distortion": Distortion(corruption="fog", severity=1),
}


@pytest.mark.parametrize("measure", CHANGED, ids=lambda one: one.name)
def test_every_kind_of_job_comes_back_from_its_json(measure: Measure) -> None:
    for bits in (32, 2):
        job = child(measure, bits=bits)
        assert Job.from_json(job.to_json()) == job
        assert Job.from_json(job.to_json()).identity == job.identity


@pytest.mark.parametrize("name", MEASURES)
def test_every_convention_changes_the_identity(name: str) -> None:
    plain = USUAL[name]
    values = ("magnitude", "quantized", "all", "r", "corrected", "relative-plus-one", "centre", "snow", False, 3, 0.5)
    for setting in names_of(MEASURES[name]):
        for value in values:
            try:
                other = measure_from({**measure_settings(plain), setting: value})
            except InputError:
                continue
            if other != plain:
                assert child(other).identity != child(plain).identity
                assert child(other).cohort_key != child(plain).cohort_key


def test_no_setting_of_a_measure_is_called_like_one_of_a_training() -> None:
    for measure in MEASURES.values():
        assert not set(names_of(measure)) & Training.known()


def test_jobs_are_the_trainings_and_then_their_measures(tmp_path: Path) -> None:
    jobs = sweep(tmp_path).jobs()
    assert [job.kind for job in jobs[:2]] == [kinds.TRAIN, kinds.TRAIN]
    # Full precision has nothing to round: two noises and one sharpness; four bits have all four, and sharpness.
    assert [sum(job.parent == one.identity for job in jobs) for one in jobs[:2]] == [3, 5]
    assert len({job.identity for job in jobs}) == len(jobs) == 10


def test_a_sweep_with_measures_comes_back_from_its_json(tmp_path: Path) -> None:
    spec = sweep(tmp_path)
    again = Spec.from_json(spec.to_json(), place=spec.place)
    assert [job.identity for job in again.jobs()] == [job.identity for job in spec.jobs()]


def test_a_sweep_without_measures_has_the_json_that_it_always_had() -> None:
    assert "measures" not in read_sweep("cifar10-grid").to_json()


def test_a_selection_of_a_measure_gets_its_parent_first(tmp_path: Path) -> None:
    chosen = select(sweep(tmp_path).jobs(), where="measure == 'sharpness' and bits == 4")
    assert [job.kind for job in chosen] == [kinds.TRAIN, kinds.FLATNESS]
    assert chosen[1].parent == chosen[0].identity


def test_a_setting_of_the_measures_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    jobs = read_sweep(str(path), ["measure_samples=100", "noise_std=corrected"]).jobs()
    measures = [job.measure for job in jobs if job.measure is not None]
    assert {one.measure_samples for one in measures} == {100}
    assert {one.noise_std for one in measures if isinstance(one, PacBayes)} == {"corrected"}
    with pytest.raises(InputError, match="no measure of digits-grid"):
        read_sweep("digits-grid", ["copies=3"])


def test_conventions_that_make_no_difference_are_one_job() -> None:
    full = training(bits=32)
    assert asked_of(PacBayes(perturb="quantized", perturb_step=False, fold_bn="all"), full) == PacBayes()
    assert asked_of(PacBayes(fold_bn="none"), full) == PacBayes(fold_bn="none", perturb_folded="none")
    assert asked_of(PacBayes(), training()) == PacBayes(perturb_folded="none")
    assert asked_of(PacBayes(fold_bn="all"), training()) == PacBayes(fold_bn="all")
    assert asked_of(PacBayes(perturb="quantized", perturb_step=False), training()) == PacBayes(
        perturb="quantized", perturb_folded="none"
    )
    assert asked_of(Sharpness(delta=0.05, ball="relative-plus-one"), training()) == Sharpness(perturb_folded="none")
    assert asked_of(Sharpness(scaling="magnitude", delta=0.05), training()).delta == 0.05  # type: ignore[union-attr]


def test_a_distortion_needs_a_corrupted_test_set() -> None:
    known = training(data="cifar100")
    distortion = Distortion(corruption="fog", severity=3)
    assert asked_of(distortion, known) == distortion
    other = dataclasses.replace(known, data=dataclasses.replace(known.data, name="own", title="My own"))
    with pytest.raises(InputError, match=r"no corrupted test set of My own; allowed with distortion: digits, cifar10"):
        asked_of(distortion, other)
    large = dataclasses.replace(known, data=dataclasses.replace(known.data, name="imagefolder", size=1024))
    with pytest.raises(InputError, match=r"image_size: images of 1024 pixels a side are too large.*: up to 1023"):
        asked_of(distortion, large)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('measure = "pac_bayez"', "did you mean 'pac_bayes'"),
        ('noise_std = "exact"', "allowed: reference, corrected"),
        ('perturb = ["latent", "both"]', "allowed: latent, quantized"),
        ("search_upper = -1.0", "search_upper: -1.0 is not allowed"),
        ("copies = 0", "copies: 0 is not allowed"),
        ("delta = 0.05", "'delta' is not a setting of pac_bayes"),
        ("noise_sdt = 1", "did you mean 'noise_std'"),
        ("measure_samples = 100000", "10 to 1442 images of Digits"),
        ("measure_samples = 5", "10 to 1442 images of Digits"),
        (DISTORTION.format("fogg", 1), "'fogg' is not allowed"),
        (DISTORTION.format("fog", 6), "allowed: 1, 2, 3, 4, 5"),
        ('measure = "distortion"\nseverity = 1', "corruption is missing"),
        (DISTORTION.format("fog", 1) + "measure_samples = 356", "10 to 355 images of Digits"),
        (DISTORTION.format("fog", 1) + "copies = 3", "'copies' is not a setting of distortion"),
        ("copies = []", "at least one value"),
    ],
)
def test_a_wrong_convention_is_refused_with_its_place(tmp_path: Path, wrong: str, message: str) -> None:
    first = FILE[: FILE.index("[[measures]]")]
    entry = wrong if wrong.startswith("measure =") else f'measure = "pac_bayes"\n{wrong}'
    with pytest.raises(InputError, match="measures") as caught:
        sweep(tmp_path, f"{first}[[measures]]\n{entry}\n").jobs()
    assert message in str(caught.value)


def test_measures_of_models_that_are_not_kept_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"keep: measures take the trained models.*with measures: all, children"):
        sweep(tmp_path, f'keep = "none"\n{FILE}').jobs()


def test_a_stored_job_that_names_no_later_convention_is_what_it_was() -> None:
    old = child(PacBayes(perturb_folded="none"))
    text = json.dumps(
        {"kind": "measure", "parent": old.parent, "settings": {
            name: value for name, value in old.settings().items() if name != "perturb_folded"}}
    )  # fmt: skip
    assert Job.from_json(text).identity == old.identity
