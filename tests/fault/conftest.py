"""What the trials share: one uninterrupted run to compare with, and the databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fault.databases import databases
from tests.fault.trial import Database, Outcome, forked, run_trial
from tests.postgres import missing_postgres


@pytest.fixture(scope="module")
def forks() -> Iterator[None]:
    """What trials start is forked."""
    with forked():
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, forks: None) -> Outcome:
    """The same sweep without faults."""
    outcome = run_trial(tmp_path_factory.mktemp("reference") / "trial", [], Database(name="sqlite"), reference=None)
    assert not outcome.violations
    return outcome


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database of each kind."""
    if request.param == "postgres":
        missing_postgres()
    with databases(request.param) as make:
        yield make()
