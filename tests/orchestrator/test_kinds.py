"""A chain of kinds that the product does not have leaves in a bundle, comes back, and stands in every answer."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.orchestrator.estimates import Speeds
from qsweep.orchestrator.importing import import_results
from qsweep.orchestrator.joblife import life_of
from qsweep.orchestrator.packing import pack
from qsweep.orchestrator.planner import make_plan
from qsweep.orchestrator.registration import register
from qsweep.orchestrator.selection import Selection
from qsweep.reports.evidence import gather
from qsweep.reports.opening import opened_source
from qsweep.reports.page.page import render_page
from qsweep.reports.trackers.run import tracked_runs
from qsweep.sweeps.code import code_version
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.spec import Spec, variant
from qsweep.workers.agent.heartbeat import Heartbeat
from qsweep.workers.agent.loop import Agent
from qsweep.workers.agent.workplace import Workplace
from qsweep.workers.bundle.local_queue import LocalQueue
from qsweep.workers.bundle.manifest import read_manifest
from qsweep.workers.device import hardware_of
from tests.made_kinds import chain_on, register_kinds
from tests.workers.test_agent import agent

SWEEP = """
title = "A chain"
[fixed]
data = "digits"
model = "nin"
width = 2
depth = 1
channels_per_width = 2
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
bits = 4
epochs = 1
batch_size = 64
[axes]
seed = [0]
"""


def selected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Selection:
    """A training and a chain on it, as a sweep file of its own would span it."""
    register_kinds(monkeypatch)
    (folder / "chain.toml").write_text(SWEEP)
    spec = read_sweep(str(folder / "chain.toml"), ())
    jobs = tuple(chain_on(spec.jobs()[0], corruption="contrast"))
    monkeypatch.setattr(Spec, "jobs", lambda _: list(jobs))
    monkeypatch.setattr(Spec, "trainings", lambda _: [job for job in jobs if job.parent is None])
    return Selection(spec=spec, label=variant(jobs), jobs=jobs, chosen=jobs)


def work_off(folder: Path) -> None:
    """Run the jobs of a bundle in this process."""
    home = Home.at(folder)
    home.prepare()
    queue = LocalQueue(home, read_manifest(folder))
    try:
        queue.enlist(1, ("fp32",))
        hardware = hardware_of(torch.device("cpu"))
        queue.began({"host": "far", "device": hardware.name, "torch": hardware.build, "code": "test"})
        place = Workplace(
            home=home, queue=queue, hardware=hardware, agent=1, code="test",
            heartbeat=Heartbeat(queue, 1, lease=30.0, patience=math.inf), stop=threading.Event(),
        )  # fmt: skip
        Agent(place).run()
    finally:
        queue.close()


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 1])
def test_a_chain_leaves_and_comes_back_and_is_answered_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    selection, home = selected(tmp_path, monkeypatch), Home.at(tmp_path / "home")
    if done:
        part = replace(selection, chosen=selection.jobs[:done])
        registry, _, _ = register(home, part, None, code=code_version())
        with registry:
            agent(home, registry).run()
    packed = pack(home, selection, tmp_path / "far", with_data=False, code=None)
    assert (packed.jobs, packed.left) == (4 - done, done)
    assert len(list((tmp_path / "far" / "models").rglob("*.pt"))) == done
    work_off(tmp_path / "far")
    found = import_results(home, tmp_path / "far")
    assert (found.counted, found.refused, found.away, found.without_models) == (4 - done, 0, 0, 0)
    assert audit(home, deep=True) == []
    with Registry.open(home.registry) as registry:
        rows = registry.catalogue.jobs(registry.catalogue.sweeps()[0].id)
        assert [(row.kind, row.state) for row in rows] == [
            (kind, State.DONE) for kind in ("train", "corrupt", "sketch", "trace")
        ]
        assert [row.model_file is not None for row in rows] == [True, False, True, False]
        life = life_of(home, registry, rows[3])
        assert life.results["length"] != 0
    with opened_source(selection.title, home) as source:
        tracked = {one.kind: one for one in tracked_runs(source)}
        evidence = gather(source)
    assert tracked["trace"].metrics.keys() == {"length"}
    assert tracked["sketch"].tags["qsweep.parent"] == rows[1].identity
    page = render_page(evidence)
    assert "Traces done" in page
    assert rows[3].identity in page


def test_a_plan_reckons_with_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = selected(tmp_path, monkeypatch).jobs
    plan = make_plan(jobs, workers=1, device="cpu", keep="all", speeds=Speeds([], "cpu"))
    assert {one.key.split("/")[0]: one.jobs for one in plan.cohorts} == {
        "train": 1, "corrupt-distortion": 1, "sketch-sketch": 1, "trace-trace": 1,
    }  # fmt: skip
    assert all(one.seconds > 0 for one in plan.cohorts)
