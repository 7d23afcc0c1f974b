"""An agent in this process, on a real registry: what it waits for, and how it ends."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from qsweep.db.errors import RegistryUnavailable
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import Accepted, AgentInfo, Checkpoint, Finished
from qsweep.db.states import FailureClass, State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from qsweep.sweeps.training import Training
from qsweep.workers.agent.endings import DeviceLost, Stopped
from qsweep.workers.agent.heartbeat import Heartbeat
from qsweep.workers.agent.loop import Agent
from qsweep.workers.agent.workplace import Workplace
from qsweep.workers.cohort import Cohort, Result
from qsweep.workers.device import hardware_of

SETTINGS = {
    "data": "digits", "model": "nin", "width": 2, "depth": 1, "channels_per_width": 2, "optimizer": "sgd",
    "learning_rate": 0.1, "weight_decay": 0.0, "bits": 4, "epochs": 1, "batch_size": 64,
}  # fmt: skip
INFO = AgentInfo(host="here", pid=1, process_started=1.0, boot_id="boot", backend="local", device="cpu", build="test")


def register(registry: Registry, *jobs: Job) -> int:
    sweep = registry.sweeps.add(name="grid", label="a", spec="{}", size=len(jobs))
    registry.sweeps.register(sweep.id, jobs)
    return sweep.id


def agent(home: Home, registry: Registry, *, time_limit: float = math.inf) -> Agent:
    number = registry.agents.enlist(INFO)
    heartbeat = Heartbeat(registry.queue, number, lease=30.0, patience=600.0)
    place = Workplace(
        home=home, queue=registry.queue, hardware=hardware_of(torch.device("cpu")), agent=number, code="test",
        heartbeat=heartbeat, stop=threading.Event(), time_limit=time_limit,
    )  # fmt: skip
    return Agent(place)


def training() -> Job:
    return Job(training=Training.from_settings(SETTINGS))


def test_an_idle_agent_waits_for_what_another_holds_and_takes_it_when_it_comes_back(
    home: Home, registry: Registry
) -> None:
    sweep = register(registry, training())
    other = registry.agents.enlist(INFO)
    head = registry.queue.next_cohort(other)
    assert head is not None
    claims = registry.queue.claim(other, head, 1)
    idle = agent(home, registry)
    thread = threading.Thread(target=idle.run)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    registry.queue.fail(other, claims, FailureClass.LOST, "gone")
    thread.join(300)
    assert not thread.is_alive()
    assert [(row.state, row.attempt) for row in registry.catalogue.jobs(sweep)] == [(State.DONE, 2)]


def test_a_registry_out_of_reach_leaves_the_job_to_the_end_of_the_lease_and_costs_it_nothing(
    home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsweep.db.connection.BUSY", 0.1)
    registry._database.patience = 0.1
    sweep = register(registry, training())
    worker = agent(home, registry)
    lock = sqlite3.connect(home.root / "registry.db", isolation_level=None, check_same_thread=False)

    def bar(*given: object) -> None:
        if not lock.in_transaction:
            lock.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr("qsweep.workers.kinds.train.point", bar)  # from the first step on nobody else can write
    with pytest.raises(RegistryUnavailable):
        worker.run()
    lock.execute("ROLLBACK")
    lock.close()
    assert [row.state for row in registry.catalogue.jobs(sweep)] == [State.RUNNING]
    registry.agents.mark_dead(worker.place.agent, FailureClass.LOST, "the registry did not answer the agent")
    (attempt,) = registry.history.attempts(registry.catalogue.jobs(sweep)[0].id)
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
    (row,) = registry.catalogue.jobs(sweep)
    assert (row.state, row.progress) == (State.QUEUED, training().training.steps_per_epoch)
    agent(home, registry).run()
    (row,) = registry.catalogue.jobs(sweep)
    assert (row.state, registry.history.attempts(row.id)[-1].resumed_from) == (State.DONE, row.progress)


def test_a_measure_has_a_time_limit_too(home: Home, registry: Registry) -> None:
    parent = training()
    sweep = register(registry, parent)
    agent(home, registry).run()
    child = Job(training=parent.training, kind=FLATNESS, parent=parent.identity, measure=PacBayes(copies=2))
    register(registry, child)
    agent(home, registry, time_limit=0.001).run()
    states = {row.kind: (row.state, row.failure_class, row.error) for row in registry.catalogue.jobs(sweep)}
    assert states["train"][:2] == (State.DONE, None)
    assert states["measure"][:2] == (State.FAILED, FailureClass.TIMEOUT)
    assert states["measure"][2].startswith("not done after 0.001 s, at step ")


WILD = SETTINGS | {"learning_rate": 100.0, "weight_decay": 1.0, "bits": 32, "epochs": 3}
"""Each step takes a weight times −99."""


def test_a_diverged_training_ends_at_once_and_its_neighbour_goes_on(home: Home, registry: Registry) -> None:
    calm = SETTINGS | {"bits": 32, "epochs": 3}
    jobs = [Job(training=Training.from_settings(one)) for one in (WILD, calm)]
    sweep = register(registry, *jobs)
    worker = agent(home, registry)
    ended: list[str] = []
    finish = registry.queue.finish

    def told(number: int, finished: Sequence[Finished]) -> Accepted:
        ended.extend(row.identity for row in registry.catalogue.jobs(sweep, state=State.DONE))
        return finish(number, finished)

    worker.place.queue.finish = told  # type: ignore[method-assign]
    worker.run()
    wild, quiet = registry.catalogue.jobs(sweep)
    assert ended == [wild.identity]  # counted before the other one was
    assert [(row.state, row.diverged) for row in (wild, quiet)] == [(State.DONE, True), (State.DONE, False)]
    rows = ResultStore(home.store).read("epochs", registry.catalogue.committed(sweep)).to_pylist()
    assert [row["epoch"] for row in rows if row["job"] == wild.identity] == [1]
    assert [row["epoch"] for row in rows if row["job"] == quiet.identity] == [1, 2, 3]
    assert registry.catalogue.counts(sweep).diverged == 1


def test_a_training_that_was_stopped_as_it_diverged_ends_with_the_same_epochs(home: Home, registry: Registry) -> None:
    sweep = register(registry, Job(training=Training.from_settings(WILD)))
    worker = agent(home, registry)
    lost = Cohort.lost

    def stopped_before(cohort: Cohort) -> list[int]:
        if lost(cohort):
            raise Stopped  # a checkpoint of the diverged training is written
        return []

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Cohort, "lost", stopped_before)
        head = registry.queue.next_cohort(worker.place.agent)
        assert head is not None
        worker._work(registry.queue.claim(worker.place.agent, head, 1), worker._plan(head))
    (row,) = registry.catalogue.jobs(sweep)
    assert (row.state, row.progress) == (State.QUEUED, row.job.training.steps_per_epoch)
    worker.run()
    rows = ResultStore(home.store).read("epochs", registry.catalogue.committed(sweep)).to_pylist()
    assert [row["epoch"] for row in rows] == [1]


def test_a_training_tells_of_its_epochs_with_its_checkpoints_and_in_the_log(
    home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QSWEEP_CHECKPOINT_STEPS", "10")
    job = Job(training=Training.from_settings(SETTINGS | {"epochs": 3}))
    sweep = register(registry, job)
    seen: list[tuple[int, list[dict[str, Any]]]] = []
    checkpointed = registry.queue.checkpointed

    def told(number: int, saved: Sequence[Checkpoint]) -> Accepted:
        answer = checkpointed(number, saved)
        seen.extend((saved[0].step, [dict(row) for row in one.epochs]) for one in registry.history.curves(sweep))
        return answer

    worker = agent(home, registry)
    worker.place.queue.checkpointed = told  # type: ignore[method-assign]
    with caplog.at_level("INFO"):
        worker.run()
    steps = job.training.steps_per_epoch
    assert [len(rows) for _, rows in seen] == [step // steps for step, _ in seen]
    assert max(len(rows) for _, rows in seen) == 2
    counted = ResultStore(home.store).read("epochs", registry.catalogue.committed(sweep)).to_pylist()
    for _, rows in seen:
        assert [{**counted[0], **row} for row in rows] == counted[: len(rows)]
    assert registry.history.curves(sweep) == []
    lines = [one for one in caplog.messages if one.startswith("epoch ")]
    expected = [
        f"epoch {row['epoch']} of 3, training loss: {job.identity[:12]} {row['train_loss']:.4f}" for row in counted
    ]
    assert lines == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_agent_whose_device_answers_no_more_hands_its_jobs_back_and_ends(
    home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error every later job of the process would fail, and take its tries with it."""
    sweep = register(registry, training())
    worker = agent(home, registry)

    def fall_off_the_bus(*given: object) -> None:
        worker.place = replace(worker.place, hardware=replace(worker.place.hardware, type="cuda"))
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("qsweep.workers.kinds.train.point", fall_off_the_bus)
    with pytest.raises(DeviceLost, match="can't compute on this GPU"):
        worker.run()
    (row,) = registry.catalogue.jobs(sweep)
    (attempt,) = registry.history.attempts(row.id)
    assert (row.state, attempt.failure_class) == (State.QUEUED, FailureClass.CRASH)
