"""The table of components: what is absent changes nothing, and what is added has its place everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from qsweep.sweeps.components import PARTS, known_settings, register, used_settings
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.parts import Component
from qsweep.sweeps.settings import Rule, setting
from qsweep.sweeps.training import Training
from tests.sweeps.test_identity import BASE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounded:
    """An activation quantizer."""

    name: ClassVar[str] = "rounded"
    semantics: ClassVar[int] = 1

    activation_bits: int = setting(Rule(choices=(4, 8)))
    signed: bool = setting(default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharp:
    """A training method."""

    name: ClassVar[str] = "sharp"
    semantics: ClassVar[int] = 1

    rho: float = setting(Rule(above=0), default=0.05)


@pytest.fixture
def more() -> Iterator[None]:
    """An activation quantizer and a second method."""
    register("activation_quantizer", Component(name="rounded", settings=Rounded, implementation="none:none", label=""))
    register("method", Component(name="sharp", settings=Sharp, implementation="none:none", label="SAM"))
    yield
    del PARTS["activation_quantizer"].components["rounded"]
    del PARTS["method"].components["sharp"]
    used_settings.cache_clear()


def job(**changes: Any) -> Job:
    return Job(training=Training.from_settings({**BASE, **changes}))


def test_a_training_has_one_field_for_each_part() -> None:
    assert [field.name for field in dataclasses.fields(Training)] == list(PARTS)


def test_no_setting_belongs_to_two_parts() -> None:
    names = [name for part in PARTS.values() for name in part.known()]
    assert len(names) == len(set(names))
    assert set(names) == known_settings()


def test_each_part_has_a_column_for_each_of_its_settings() -> None:
    for part in PARTS.values():
        assert set(part.columns()) == part.known()


def test_a_part_that_was_added_later_changes_no_job_where_it_is_absent(more: None) -> None:
    plain = job()
    assert plain.identity == "d2f07602e2e02391328902b890cf9bbf"
    assert job(method="plain", activation_bits=32).identity == plain.identity
    assert job(method="plain", activation_bits=32).cohort_key == plain.cohort_key
    assert {"method", "activation_bits", "activation_quantizer"}.isdisjoint(plain.settings())


def test_a_part_that_was_added_later_makes_other_jobs_where_it_is_there(more: None) -> None:
    given = {"activation_quantizer": "rounded", "activation_bits": 4}
    some = [job(), job(**given), job(**given, signed=True), job(method="sharp"), job(method="sharp", rho=0.1)]
    assert len({one.identity for one in some}) == len(some)
    assert all(Job.from_json(one.to_json()) == one for one in some)


def test_members_of_a_cohort_share_the_kind_of_method_and_of_activation_quantizer_and_not_their_settings(
    more: None,
) -> None:
    given = {"activation_quantizer": "rounded"}
    assert job(method="sharp").cohort_key == job(method="sharp", rho=0.1, bits=32).cohort_key
    assert job(**given, activation_bits=4).cohort_key == job(**given, activation_bits=8, signed=True).cohort_key
    assert len({one.cohort_key for one in (job(), job(method="sharp"), job(**given, activation_bits=4))}) == 3


def test_a_wrong_width_of_activations_is_refused_with_what_is_allowed(more: None) -> None:
    with pytest.raises(InputError, match="activation_bits: 3 is not allowed") as caught:
        job(activation_quantizer="rounded", activation_bits=3)
    assert caught.value.allowed == "allowed: 4, 8, 32"


def test_a_component_without_a_sweep_to_name_it_by_is_unknown() -> None:
    with pytest.raises(InputError, match="'sharp' is not known"):
        job(method="sharp")


def test_a_name_that_is_taken_and_a_setting_of_another_part_are_refused() -> None:
    with pytest.raises(InputError, match="there is a method 'plain' already"):
        register("method", Component(name="plain", settings=Sharp))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd:
        name: ClassVar[str] = "odd"
        momentum: int = setting()

    with pytest.raises(InputError, match="'momentum' is a setting of another part"):
        register("method", Component(name="odd", settings=Odd))
    with pytest.raises(InputError, match="'momentum' is of another type"):
        register("optimizer", Component(name="odd", settings=Odd))
    assert all("odd" not in part.components for part in PARTS.values())
