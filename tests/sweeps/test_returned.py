"""What a run of the user's code may return and log is what can be stored, brought home and read again."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.returned import check_logged, check_row, has_diverged, read_row

ROW = {"loss": 1.0, "big": 10**300, "text": "é\0", "flag": True, "none": None, "list": [[1, "a"], []]}
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


def test_a_row_comes_back_as_it_was() -> None:
    check_row(ROW)
    assert read_row(json.dumps(ROW)) == ROW
    assert not has_diverged(read_row(json.dumps(ROW)))
    lost = read_row(json.dumps({"loss": math.inf}))
    assert has_diverged(lost)


@pytest.mark.parametrize(
    "row",
    [{"a": 10**400}, {"a": -(10**400)}, {"a": "\ud800"}, {"a": ["\udfff"]}, {"a": ENDLESS}, {"a": {}}, {"a": b""},
     {"": 1}, {"a b": 1}, {"job": 1}, {1: 1}, {"a": "x" * 5000}],
)  # fmt: skip
def test_what_no_column_holds_is_no_row(row: dict[Any, Any]) -> None:
    with pytest.raises(InputError):
        check_row(row)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 5000, f'{{"a": {"[" * 1500}{"]" * 1500}}}', '{"a": {}}'])
def test_a_text_that_is_no_row_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_row(text)


def test_a_logged_value_has_a_step_and_a_name_that_can_be_stored() -> None:
    for step, name in ((-(2**63), "loss"), (2**63 - 1, "val/ü loss")):
        check_logged(step, name)
    for step, name in ((2**63, "loss"), (-(2**63) - 1, "loss"), (1, ""), (1, "a\nb"), (1, "\ud800"), (1, "x" * 256)):
        with pytest.raises(InputError):
            check_logged(step, name)
