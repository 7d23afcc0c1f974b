"""Which code goes on with a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from db.rows import Sweep
from db.states import SweepState
from orchestrator.freezing import DIRTY, Code, choose_code
from sweeps.code import code_version
from sweeps.errors import InputError

SWEEP = Sweep(
    id=1, name="grid", label="a", spec="{}", size=1, owner="", code="", keep="all", state=SweepState.ACTIVE,
    reason="", created_at=0.0, launched_at=0.0,
)  # fmt: skip


def test_committing_the_same_code_changes_nothing() -> None:
    content = code_version().removesuffix(DIRTY)
    for launched_with in (content, content + DIRTY):
        assert choose_code(replace(SWEEP, code=launched_with), None) == code_version()


def test_other_code_is_asked_about() -> None:
    other = replace(SWEEP, code="0.1.0+000000000000")
    with pytest.raises(InputError, match="--code frozen"):
        choose_code(other, None)
    assert choose_code(other, Code.FROZEN) == other.code
    assert choose_code(other, Code.CURRENT) == code_version()
