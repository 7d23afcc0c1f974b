"""An agent in this process, on a real registry: what it waits for, and how it ends."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from db.errors import RegistryUnavailable
from db.home import Home
from db.registry import Registry
from db.rows import AgentInfo
from db.states import FailureClass, State
from sweeps.job import Job, Kind
from sweeps.measures import PacBayes
from sweeps.training import Training
from workers.agent.heart import Heart
from workers.agent.loop import Agent
from workers.agent.workplace import Workplace
from workers.cohort import Cohort, Result

SETTINGS = {
    "data": "digits", "model": "nin", "width": 2, "depth": 1, "channels_per_width": 2, "optimizer": "sgd",
    "learning_rate": 0.1, "weight_decay": 0.0, "bits": 4, "epochs": 1, "batch_size": 64,
}  # fmt: skip
INFO = AgentInfo(host="here", pid=1, process_started=1.0, boot_id="boot", backend="local", device="cpu", build="test")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    with Registry.open(home.registry, create=True) as opened:
        yield opened


def register(registry: Registry, *jobs: Job) -> int:
    sweep = registry.add_sweep(name="grid", label="a", spec="{}", size=len(jobs))
    registry.register(sweep.id, jobs)
    return sweep.id


def agent(home: Home, registry: Registry, *, time_limit: float = math.inf) -> Agent:
    number = registry.enlist(INFO)
    heart = Heart(registry, number, lease=30.0, patience=600.0)
    place = Workplace(
        home=home, registry=registry, device=torch.device("cpu"), agent=number, code="test", heart=heart,
        stop=threading.Event(), time_limit=time_limit,
    )  # fmt: skip
    return Agent(place)


def training() -> Job:
    return Job(training=Training.from_settings(SETTINGS))


def test_an_idle_agent_waits_for_what_another_holds_and_takes_it_when_it_comes_back(
    home: Home, registry: Registry
) -> None:
    sweep = register(registry, training())
    other = registry.enlist(INFO)
    head = registry.next_cohort(other)
    assert head is not None
    claims = registry.claim(other, head, 1)
    idle = agent(home, registry)
    thread = threading.Thread(target=idle.run)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    registry.fail(other, claims, FailureClass.LOST, "gone")
    thread.join(60)
    assert not thread.is_alive()
    assert [(row.state, row.attempt) for row in registry.jobs(sweep)] == [(State.DONE, 2)]


def test_a_registry_out_of_reach_leaves_the_job_to_the_end_of_the_lease_and_costs_it_nothing(
    home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection.BUSY", 0.1)
    registry._database.patience = 0.1
    sweep = register(registry, training())
    worker = agent(home, registry)
    lock = sqlite3.connect(home.root / "registry.db", isolation_level=None, check_same_thread=False)

    def bar(*given: object) -> None:
        if not lock.in_transaction:
            lock.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr("workers.agent.training.point", bar)  # from the first step on nobody else can write
    with pytest.raises(RegistryUnavailable):
        worker.run()
    lock.execute("ROLLBACK")
    lock.close()
    assert [row.state for row in registry.jobs(sweep)] == [State.RUNNING]
    registry.bury(worker.place.agent, FailureClass.LOST, "the registry did not answer the agent")
    (attempt,) = registry.attempts(registry.jobs(sweep)[0].id)
    assert (attempt.outcome, attempt.failure_class) == (State.QUEUED, FailureClass.LOST)


def test_an_agent_stops_within_the_last_evaluation_and_another_goes_on_from_there(
    home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = register(registry, training())
    worker = agent(home, registry)
    whole = Cohort.results

    def stopped_meanwhile(cohort: Cohort, interrupt: Callable[[], None]) -> list[Result]:
        worker.place.stop.set()
        return whole(cohort, interrupt)

    with monkeypatch.context() as patched:
        patched.setattr(Cohort, "results", stopped_meanwhile)
        worker.run()
    (row,) = registry.jobs(sweep)
    assert (row.state, row.progress) == (State.QUEUED, training().training.steps_per_epoch)
    agent(home, registry).run()
    (row,) = registry.jobs(sweep)
    assert (row.state, registry.attempts(row.id)[-1].resumed_from) == (State.DONE, row.progress)


def test_a_measure_has_a_time_limit_too(home: Home, registry: Registry) -> None:
    parent = training()
    sweep = register(registry, parent)
    agent(home, registry).run()
    child = Job(training=parent.training, kind=Kind.MEASURE, parent=parent.identity, measure=PacBayes(copies=2))
    register(registry, child)
    agent(home, registry, time_limit=0.001).run()
    states = {row.kind: (row.state, row.failure_class, row.error) for row in registry.jobs(sweep)}
    assert states["train"][:2] == (State.DONE, None)
    assert states["measure"][:2] == (State.FAILED, FailureClass.TIMEOUT)
    assert states["measure"][2].startswith("not done after 0.001 s, at step ")
