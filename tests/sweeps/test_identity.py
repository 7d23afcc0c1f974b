"""A job's identity is its content, for ever."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, ClassVar

import pytest

from qsweep.sweeps.files import builtin_names, read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import TRAIN
from qsweep.sweeps.optimizers import Sgd
from qsweep.sweeps.settings import Rule, canonical, setting
from qsweep.sweeps.training import Training

BASE: dict[str, Any] = {
    "data": "cifar10",
    "model": "nin",
    "width": 10,
    "depth": 4,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "bits": 2,
    "epochs": 300,
    "batch_size": 128,
    "milestones": [100, 200],
    "augment": "crop-flip",
}

GOLDEN = {
    "cifar10-grid": ("e8e9bc3fe2460400efd8615c708fd7f0", "84777ebe11f9f1f474df21b79ca376ac", "9758948569a3291c"),
    "cifar100-grid": ("8f28fc697e58dc5f6c7275dbdad58691", "8dd251b3f94de935b2818f4422d3d555", "8537e3e1f383afd6"),
    "digits-grid": ("fbb9a236bf1d4661fe41c83164610b43", "267b3b4feee8b9089b0d5b1c2c3dad1a", "6654a65cbb9d8b24"),
    "cifar10-flatness": ("621595c55db700d45222ae1d72670b60", "1a796fc9fe518402c2417b8829210879", "0c06a43f90811440"),
    "cifar100-flatness": ("bc42e0dfc2a3a0717343082321193cdb", "e908ef96e45b3d0bbd2524fdcbd3032e", "075e8ebb01477ca5"),
    "cifar100-distortion": ("2bbd43fbd5b4a9d22b3b4529229b8af2", "f7f4dae254af4fb80ebdbf3c1df284d0", "3e784b3c47067ab3"),
    "digits-distortion": ("6a9498c7b30bcf6d0108482ff16da0b5", "180d1be8f8646a74eeb5c02e0b749c73", "d0ad3cfef7764f31"),
    "digits-flatness": ("de36f2ca97fc53357d9dedab83c3568f", "c6268a3a3914a39754d3255cee00a7e9", "7361280d713021fa"),
    "digits-zeroshot": ("493efaf8b241a9541ecd7961fc4d1723", "fcad3d720efbc3bf05c9a00386ae5747", "48be42fc6205cdb1"),
    "zeroshot-cifar100": ("cdbc516c635f293e5bd3702810e17a01", "2dc75d72eaa796c14b82a3c879b0d4b2", "52d0ab318b81696f"),
    "zeroshot-imagenet": ("656bae1445f93185b147a51a5d40b1f2", "2e2f5bd6b6bdf5b85b4d44f150ef9704", "4eabf82f5a9c8975"),
    "zeroshot-images": ("656bae1445f93185b147a51a5d40b1f2", "da657d22dffa615ba15cc68fea430c35", "96d6626497b64bb2"),
    "zeroshot-factors": ("656bae1445f93185b147a51a5d40b1f2", "316a4d4c2b961abf8a49b808be517928", "d7261bfa99d35782"),
    "digits-sam": ("de36f2ca97fc53357d9dedab83c3568f", "76c5dd2363d6f8ab907a1ca886d5fde1", "61716e56baf4915a"),
    "digits-saq": ("e59c63ce4c23465fab93822afbdb0e0d", "91e4f964bcfc67e73ce4ca642b1f7f1c", "fb39dc267aacb241"),
    "flat-or-sharp": ("621595c55db700d45222ae1d72670b60", "521514d488bf96f687c6a4a2cba3e8ed", "f4b748af705bd113"),
    "saq-cifar100": ("855bdfb644b9b954771fe246b7429012", "8c131eb1962d3d05a48710862238f206", "c87d7c0bd6d893e9"),
    "saq-cifar100-float": ("9d1419179a612f37f675944c46694f3c", "70aca65ad2d00480ad5bc973fa97de69", "01463b99039c9c68"),
    "saq-imagenet": ("7bc62b2cedd3e1de8e198b70ef11a16c", "bcf12cc85b9bdb0c026d1d2913af711b", "0bbedd6a69b38c4f"),
    "imagenet-resnets": ("504d1612bf95958bdb0be384ab219889", "b126d24751448e5cb39a313692267a01", "47d970b9ba40ecfc"),
    "imagenet-distortion": ("656bae1445f93185b147a51a5d40b1f2", "8393089041a8eac75cfcfbcc5691e6e2", "f105460fe53a3ab2"),
    "digits-transformers": ("c4f30d01abecc4fb31897967da300dd8", "0cb80d3cd0ba47d730a09dcf2fd6283a", "c7ba0b35526ec6a5"),
    "imagenet-transformers": (
        "d7c5a0ed48f8dfc01704e3285de2d74c",
        "a73e0cdc679cf6cc5c7a3e6e567f4dc5",
        "84664209ea914fcb",
    ),
}
"""The first job's identity, the last one's, and the hash of all of them in order."""

BEFORE_OTHERS = {
    "cifar10-flatness": ("nin", "e3e7e724a5ee15c7"),
    "cifar100-flatness": ("nin", "ccec206e8e6f6cf3"),
    "cifar100-distortion": ("resnet", "11600a3cbc5f41cc"),
}
"""The hash of all jobs in order, when these sweeps held one kind of model alone."""


BEFORE_MEASURES = {"imagenet-distortion": "22e5eaf07f4743a3"}
"""The hash of all jobs in order, when these sweeps held trainings alone."""


def job(**changes: Any) -> Job:
    return Job(training=Training.from_settings({**BASE, **changes}))


def test_every_builtin_sweep_has_a_golden_hash() -> None:
    assert GOLDEN.keys() == set(builtin_names())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_identities_of_builtin_jobs_never_change(name: str) -> None:
    identities = [one.identity for one in read_sweep(name).jobs()]
    digest = hashlib.sha256("".join(identities).encode()).hexdigest()[:16]
    assert (identities[0], identities[-1], digest) == GOLDEN[name]


@pytest.mark.parametrize("name", BEFORE_OTHERS)
def test_a_sweep_that_grew_still_holds_the_jobs_it_held(name: str) -> None:
    model, digest = BEFORE_OTHERS[name]
    older = [one.identity for one in read_sweep(name).jobs() if one.training.model.name == model]
    assert hashlib.sha256("".join(older).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", BEFORE_MEASURES)
def test_a_sweep_that_got_measures_still_holds_its_trainings(name: str) -> None:
    trainings = [one.identity for one in read_sweep(name).jobs() if one.kind is TRAIN]
    assert hashlib.sha256("".join(trainings).encode()).hexdigest()[:16] == BEFORE_MEASURES[name]


def test_an_identity_is_the_hash_of_canonical_typed_json() -> None:
    content = {
        "kind": "train",
        "parent": None,
        "data": {"name": "cifar10", "fingerprint": "9048fcbac9c08a64d57a7c5a5a66750a"},
        "model": {"name": "nin", "width": 10, "depth": 4, "channels_per_width": 25},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0001, "momentum": 0.9},
        "quantizer": {"name": "lsq", "bits": 2, "outer_bits": 8, "decay_step": False},
        "recipe": {
            "epochs": 300,
            "batch_size": 128,
            "milestones": [100, 200],
            "lr_factor": 0.1,
            "augment": "crop-flip",
            "select_by": "running",
            "seed": 0,
            "data_seed": 0,
            "precision": "fp32",
        },
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert job().identity == hashlib.sha256(text.encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 4},
        {"bits": 32},
        {"learning_rate": 0.05},
        {"seed": 1},
        {"data_seed": 1},
        {"width": 8},
        {"optimizer": "adam"},
        {"momentum": 0.0},
        {"outer_bits": 4},
        {"epochs": 299},
        {"select_by": "evaluated"},
        {"data": "cifar100"},
    ],
)
def test_every_setting_that_changes_the_result_changes_the_identity(changes: dict[str, Any]) -> None:
    assert job(**changes).identity != job().identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"optimizer": "adam", "momentum": 0.9}, {"optimizer": "adam", "momentum": 0.5}),
        ({"bits": 32, "outer_bits": 4}, {"bits": 32, "outer_bits": 8}),
        ({"momentum": 0.9}, {}),
        ({"weight_decay": -0.0}, {"weight_decay": 0.0}),
        ({"milestones": [100, 200, 300]}, {"milestones": [100, 200]}),
        ({"milestones": [400], "lr_factor": 0.5}, {"milestones": []}),
        ({"weight_decay": 0, "decay_step": True}, {"weight_decay": 0}),
    ],
)
def test_a_setting_that_a_training_does_not_use_or_that_says_the_same_changes_nothing(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert job(**one).identity == job(**other).identity


def test_a_child_is_another_job_than_its_parent() -> None:
    child = Job(training=job().training, parent=job().identity)
    assert child.identity != job().identity


@pytest.mark.parametrize(
    "changes",
    [{"bits": 32}, {"optimizer": "rmsprop"}, {"learning_rate": 0.01}, {"seed": 7}, {"outer_bits": 4}],
)
def test_members_of_a_cohort_may_differ_in_optimizer_bits_and_seed(changes: dict[str, Any]) -> None:
    assert job(**changes).cohort_key == job().cohort_key


@pytest.mark.parametrize(
    "changes",
    [{"width": 8}, {"depth": 2}, {"batch_size": 64}, {"epochs": 2}, {"data_seed": 3}, {"data": "cifar100"}],
)
def test_members_of_a_cohort_share_shape_data_batches_and_epochs(changes: dict[str, Any]) -> None:
    assert job(**changes).cohort_key != job().cohort_key


def test_slots_are_fixed_for_a_shape_however_long_it_trains() -> None:
    same = [job(), job(epochs=1), job(data_seed=3), job(milestones=[5]), job(bits=32), job(optimizer="adam")]
    assert len({one.shape for one in same}) == 1
    others = [job(width=8), job(depth=2), job(batch_size=64), job(data="cifar100")]
    assert len({one.shape for one in [job(), *others]}) == 5


def test_a_field_added_later_counts_only_away_from_its_old_behaviour() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(Sgd):
        nesterov: bool = setting(default=False, added_later=True)

    old = Sgd(learning_rate=0.1, weight_decay=0.0)
    assert canonical(Later(learning_rate=0.1, weight_decay=0.0)) == canonical(old)
    assert canonical(Later(learning_rate=0.1, weight_decay=0.0, nesterov=True)) != canonical(old)


def test_an_implementation_whose_results_changed_makes_other_jobs() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Changed:
        semantics: ClassVar[int] = 2
        rate: float = setting(Rule(above=0), default=0.1)

    assert canonical(Changed()) == {"rate": 0.1, "semantics": 2}
