"""An agent runs kinds that it has never heard of, as the table of kinds says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import Claim, ParentModel
from qsweep.db.states import State
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import KINDS, File, Kind
from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.bundle.manifest import FILE, Manifest, read_manifest
from tests.made_kinds import SKETCH, chain_on, register_kinds
from tests.workers.test_agent import SETTINGS, agent, register


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
        assert [row.state for row in registry.catalogue.jobs(sweep)] == [State.DONE] * 4
        pointers = registry.catalogue.committed(sweep)
        trained, _, sketched, _ = registry.catalogue.jobs(sweep)
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


def manifest_of(folder: Path, parent: ParentModel) -> Path:
    """A bundle's list of one trace, whose sketch stands on these."""
    trace = chain_on(Job(training=Training.from_settings(SETTINGS)))[3]
    claim = Claim(job_id=4, job=trace, attempt=1, parent=parent)
    manifest = Manifest(
        token="t", name="far", title="grid@a", holder=7, code="c", packed_at=1.5, claims=(claim,), calibrations=()
    )
    (folder / FILE).write_text(manifest.to_json())
    return folder / FILE


def above(kind: str, parent: ParentModel | None = None) -> ParentModel:
    return ParentModel(
        identity="a" * 32, attempt=2, model_file=None, model_hash=None, diverged=False, kind=kind,
        parent=parent,
    )  # fmt: skip


def test_a_bundle_holds_the_whole_chain_above_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_kinds(monkeypatch)
    chain = above("sketch", above("corrupt", above("train")))
    manifest_of(tmp_path, chain)
    (claim,) = read_manifest(tmp_path).claims
    assert claim.parent == chain
    assert [one.kind for one in claim.ancestors()] == ["sketch", "corrupt", "train"]


def test_a_bundle_of_before_there_were_chains_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_kinds(monkeypatch)
    path = manifest_of(tmp_path, above("train"))
    content = json.loads(path.read_text())
    del content["jobs"][0]["parent"]["kind"], content["jobs"][0]["parent"]["parent"]
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path).claims[0].parent == above("train")


def test_a_bundle_that_stands_on_an_unknown_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_kinds(monkeypatch)
    path = manifest_of(tmp_path, above("sketch", above("unheard")))
    with pytest.raises(InputError, match="jobs of the kind 'unheard' are unknown here"):
        read_manifest(path.parent)
