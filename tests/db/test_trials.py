"""Trials of a tuning run: jobs that an agent is told to run, reports while they run, and an early end."""

from __future__ import annotations

from typing import Any

import pytest

from qsweep.db.audit import job_problems
from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint, Claim, Sweep
from qsweep.db.states import FailureClass, State
from tests.db.conftest import agent_info, claim, trained

EPOCHS: list[dict[str, Any]] = [{"epoch": epoch, "val_loss": 1 / epoch} for epoch in (1, 2, 3)]


@pytest.fixture
def tuned(registry: Registry, sweep: Sweep) -> Sweep:
    registry.sweeps.pause(sweep.id, "tuned")
    registry.sweeps.register(sweep.id, trained(3))
    return sweep


def numbers(registry: Registry, sweep: Sweep) -> list[int]:
    return [row.id for row in registry.catalogue.jobs(sweep.id)]


def run(registry: Registry, sweep: Sweep, place: int = 0) -> tuple[int, Claim]:
    agent = registry.agents.enlist(agent_info())
    told = registry.trials.claim(agent, numbers(registry, sweep)[place])
    assert told is not None
    return agent, told


def saved(claim: Claim, step: int) -> Checkpoint:
    return Checkpoint(job_id=claim.job_id, attempt=claim.attempt, step=step, epoch=1, file=f"{step}.pt", checksum="x")


def test_an_agent_gets_the_job_that_it_is_told_and_nobody_else_takes_one(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned, 1)
    assert told.job_id == numbers(registry, tuned)[1]
    assert claim(registry, registry.agents.enlist(agent_info())) == []
    assert registry.trials.claim(registry.agents.enlist(agent_info()), told.job_id) is None
    assert registry.queue.beat(agent) == frozenset()


def test_a_job_that_a_trial_begins_has_one_slot_and_one_that_was_begun_keeps_its_own(
    registry: Registry, sweep: Sweep
) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    agent = registry.agents.enlist(agent_info())
    (first, _) = claim(registry, agent)
    registry.queue.checkpointed(agent, [saved(first, 5)])
    registry.agents.retire(agent)
    other = registry.agents.enlist(agent_info())
    slots = [registry.trials.claim(other, number) for number in numbers(registry, sweep)]
    assert [one.slots_limit for one in slots if one] == [None, 1]


def test_a_stopped_trial_is_cancelled_and_keeps_its_reports_and_its_checkpoint(
    registry: Registry, tuned: Sweep
) -> None:
    agent, told = run(registry, tuned)
    registry.trials.report(agent, told, EPOCHS[:2])
    registry.trials.report(agent, told, EPOCHS)
    registry.queue.checkpointed(agent, [saved(told, 7)])
    registry.queue.fail(agent, [told], FailureClass.STOPPED, "at epoch 3")
    row = registry.catalogue.jobs(tuned.id)[0]
    assert (row.state, row.failure_class, row.progress) == (State.CANCELLED, FailureClass.STOPPED, 7)
    assert registry.trials.reports([told.job_id]) == {told.job_id: EPOCHS}
    assert registry.history.events(told.job_id)[-1].detail == "stopped: at epoch 3"
    assert not list(job_problems(row, registry.history.events(row.id), set()))
    _, again = run(registry, tuned)
    assert (again.attempt, [one.step for one in again.checkpoints]) == (2, [7])
    assert [event.target for event in registry.history.events(told.job_id)][-2:] == [State.QUEUED, State.RUNNING]


def test_a_stopped_trial_goes_on_when_a_sweep_wants_it_whole(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    registry.queue.checkpointed(agent, [saved(told, 7)])
    registry.queue.fail(agent, [told], FailureClass.STOPPED, "at epoch 3")
    grid = registry.sweeps.add(name="grid", label="whole", spec="{}", size=3)
    registry.sweeps.register(grid.id, trained(3))
    registry.sweeps.reactivate(grid.id)
    assert registry.catalogue.counts(grid.id).queued == 3
    assert told.job_id in {one.job_id for one in claim(registry, agent)} | {
        one.job_id for one in claim(registry, agent)
    }


def test_a_trial_that_another_sweep_wants_whole_is_queued_for_it_when_it_is_stopped(
    registry: Registry, tuned: Sweep
) -> None:
    grid = registry.sweeps.add(name="grid", label="whole", spec="{}", size=3)
    registry.sweeps.register(grid.id, trained(3))
    agent, told = run(registry, tuned)
    registry.queue.fail(agent, [told], FailureClass.STOPPED, "at epoch 1")
    assert registry.catalogue.jobs(tuned.id)[0].state is State.QUEUED
    registry.trials.end(tuned.id, told.job_id, 1)
    assert registry.catalogue.jobs(tuned.id)[0].state is State.QUEUED
    assert registry.trials.ended_after(grid.id, told.job_id) is None


def test_a_queued_trial_can_be_stopped(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    assert registry.trials.ended_after(tuned.id, told.job_id) is None
    registry.trials.end(tuned.id, told.job_id, 3)
    assert registry.catalogue.jobs(tuned.id)[0].state is State.RUNNING
    registry.agents.retire(agent)
    registry.trials.end(tuned.id, told.job_id, 1)
    assert registry.catalogue.jobs(tuned.id)[0].state is State.CANCELLED
    assert registry.trials.ended_after(tuned.id, told.job_id) == 3


def test_an_agent_that_lost_its_lease_reports_nothing(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    registry.agents.mark_dead(agent, FailureClass.LOST, "gone")
    registry.trials.report(agent, told, EPOCHS)
    assert registry.trials.reports([told.job_id]) == {}


def test_an_invalidated_job_has_no_reports_and_no_end_of_its_trial(registry: Registry, tuned: Sweep) -> None:
    from tests.db.test_leases import result

    agent, told = run(registry, tuned)
    registry.trials.report(agent, told, EPOCHS)
    assert registry.queue.finish(agent, [result(told, "p1")]).jobs == {told.job_id}
    assert [one.publication for one in registry.results.committed_job(told.job_id)] == ["p1"]
    registry.trials.end(tuned.id, told.job_id, 3)
    registry.sweeps.invalidate([told.job_id], "wrong data")
    assert registry.trials.reports([told.job_id]) == {}
    assert registry.trials.ended_after(tuned.id, told.job_id) is None
    assert registry.results.committed_job(told.job_id) == []
