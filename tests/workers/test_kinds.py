"""An agent runs kinds that it has never heard of, as the table of kinds says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.states import State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import KINDS, File, Kind
from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from tests.made_kinds import SKETCH, chain_on, register_kinds
from tests.workers.test_agent import SETTINGS, agent, register


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(tmp_path / "home")
    made.prepare()
    return made


def test_every_kind_has_an_implementation_its_settings_and_its_parents() -> None:
    for kind in KINDS.values():
        assert callable(kind.implementation().run)
        assert set(kind.parents) <= KINDS.keys()
        assert bool(kind.family) == bool(kind.classes()) == bool(kind.parents)
        for file in kind.takes:
            assert any(one.leaves is file for one in _above(kind.name))


def _above(name: str) -> list[Kind]:
    kind = KINDS[name]
    return [kind, *(one for parent in kind.parents for one in _above(parent))]


def test_a_chain_of_made_up_kinds_is_run_to_its_results(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register_kinds(monkeypatch)
    chain = chain_on(Job(training=Training.from_settings(SETTINGS)), corruption="contrast", strokes=4, scale=3.0)
    with Registry.open(home.registry, create=True) as registry, caplog.at_level(logging.INFO):
        sweep = register(registry, *chain)
        agent(home, registry).run()
        assert [row.state for row in registry.jobs(sweep)] == [State.DONE] * 4
        pointers = registry.committed(sweep)
        trained, _, sketched, _ = registry.jobs(sweep)
    store = ResultStore(home.store)
    (drawn,), (traced,) = (store.read(rows, pointers).to_pylist() for rows in ("sketches", "traces"))
    model = checkpoints.load(home.models / str(trained.model_file), str(trained.model_hash))
    ink = sum(float(one.double().sum()) for one in model.values() if hasattr(one, "double"))
    assert drawn["ink"] == pytest.approx(ink)
    assert traced["length"] == pytest.approx(3.0 * 4 * ink - ink, rel=1e-5)
    assert {(row["parent"], row["parent_attempt"], row["model_hash"]) for row in (drawn, traced)} == {
        (trained.identity, 1, trained.model_hash)
    }
    assert (drawn["strokes"], traced["scale"], drawn["bits"]) == (4, 3.0, 4)
    assert SKETCH.leaves is File.IMAGES
    assert sketched.model_file is not None
    assert audit(home, deep=True) == []
