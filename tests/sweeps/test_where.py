"""`--where` selects what it says and runs nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.spec import select
from qsweep.sweeps.where import parse_where

JOBS = read_sweep("cifar10-grid").jobs()
SETTINGS: dict[str, Any] = {name: value for job in JOBS for name, value in job.settings().items()}

numbers = st.tuples(
    st.sampled_from(["bits", "depth", "width", "learning_rate", "weight_decay"]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    st.sampled_from([0, 2, 3, 4, 8, 10, 0.1, 1e-4, -1]),
).map(lambda parts: f"{parts[0]} {parts[1]} {parts[2]}")
texts = st.tuples(st.sampled_from(["==", "!="]), st.sampled_from(["sgd", "adam"])).map(
    lambda parts: f"optimizer {parts[0]} '{parts[1]}'"
)
lists = st.sampled_from(["bits in [2, 4]", "optimizer not in ('sgd', 'adam')", "2 <= depth < 4"])
conditions = st.recursive(
    numbers | texts | lists,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        inner.map(lambda part: f"not ({part})"),
    ),
    max_leaves=6,
)


@given(conditions)
def test_a_condition_means_what_python_would_make_of_it(text: str) -> None:
    condition = parse_where(text, SETTINGS)
    for job in JOBS[::97]:
        settings = dict(job.settings())
        assert condition(settings) == eval(text, {"__builtins__": {}}, settings)


def test_a_job_without_the_setting_does_not_match() -> None:
    chosen = select(JOBS, where="momentum == 0.9")
    assert {job.settings()["optimizer"] for job in chosen} == {"sgd"}


def test_the_condition_of_the_readme_selects_four_jobs() -> None:
    text = "width == 8 and depth == 2 and optimizer == 'sgd' and learning_rate == 0.1 and weight_decay == 0"
    assert [job.settings()["bits"] for job in select(JOBS, where=text)] == [32, 8, 4, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = 2", "not a condition"),
        ("bits ==", "not a condition"),
        ("", "not a condition"),
        ("bitz == 2", "did you mean 'bits'"),
        ("bits == 'two'", "can't be compared"),
        ("optimizer == 2", "can't be compared"),
        ("optimizer < 'sgd'", "has no order"),
        ("bits in 2", "has to be a list"),
        ("bits in [2, 'a']", "can't be compared"),
        ("2 == 2", "has to name a setting"),
        ("bits", "is not a comparison"),
        ("__import__('os').system('true')", "is not a comparison"),
        ("bits.__class__ == 2", "neither a setting nor a value"),
        ("bits == (lambda: 2)()", "neither a setting nor a value"),
        ("bits is 2", "not a comparison"),
        ("bits == 2" + " and bits == 2" * 5000 + ")", "not a condition"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_where(text, SETTINGS)
    assert "--where" in str(error.value)


def test_a_condition_that_no_job_fulfils_is_an_error() -> None:
    with pytest.raises(InputError, match="none of the 972 jobs"):
        select(JOBS, where="bits == 7")
