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
    registry.pause(sweep.id, "tuned")
    registry.register(sweep.id, trained(3))
    return sweep


def numbers(registry: Registry, sweep: Sweep) -> list[int]:
    return [row.id for row in registry.jobs(sweep.id)]


def run(registry: Registry, sweep: Sweep, place: int = 0) -> tuple[int, Claim]:
    agent = registry.enlist(agent_info())
    told = registry.claim_job(agent, numbers(registry, sweep)[place])
    assert told is not None
    return agent, told


def saved(claim: Claim, step: int) -> Checkpoint:
    return Checkpoint(job_id=claim.job_id, attempt=claim.attempt, step=step, epoch=1, file=f"{step}.pt", checksum="x")


def test_an_agent_gets_the_job_that_it_is_told_and_nobody_else_takes_one(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned, 1)
    assert told.job_id == numbers(registry, tuned)[1]
    assert claim(registry, registry.enlist(agent_info())) == []
    assert registry.claim_job(registry.enlist(agent_info()), told.job_id) is None
    assert registry.beat(agent) == frozenset()


def test_a_job_that_a_trial_begins_has_one_slot_and_one_that_was_begun_keeps_its_own(
    registry: Registry, sweep: Sweep
) -> None:
    registry.register(sweep.id, trained(2))
    agent = registry.enlist(agent_info())
    (first, _) = claim(registry, agent)
    registry.checkpointed(agent, [saved(first, 5)])
    registry.retire(agent)
    other = registry.enlist(agent_info())
    slots = [registry.claim_job(other, number) for number in numbers(registry, sweep)]
    assert [one.slots_limit for one in slots if one] == [None, 1]


def test_a_stopped_trial_is_cancelled_and_keeps_its_reports_and_its_checkpoint(
    registry: Registry, tuned: Sweep
) -> None:
    agent, told = run(registry, tuned)
    registry.report(agent, told, EPOCHS[:2])
    registry.report(agent, told, EPOCHS)
    registry.checkpointed(agent, [saved(told, 7)])
    registry.fail(agent, [told], FailureClass.STOPPED, "at epoch 3")
    row = registry.jobs(tuned.id)[0]
    assert (row.state, row.failure_class, row.progress) == (State.CANCELLED, FailureClass.STOPPED, 7)
    assert registry.reports([told.job_id]) == {told.job_id: EPOCHS}
    assert registry.events(told.job_id)[-1].detail == "stopped: at epoch 3"
    assert not list(job_problems(row, registry.events(row.id), set()))
    _, again = run(registry, tuned)
    assert (again.attempt, [one.step for one in again.checkpoints]) == (2, [7])
    assert [event.target for event in registry.events(told.job_id)][-2:] == [State.QUEUED, State.RUNNING]


def test_a_stopped_trial_goes_on_when_a_sweep_wants_it_whole(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    registry.checkpointed(agent, [saved(told, 7)])
    registry.fail(agent, [told], FailureClass.STOPPED, "at epoch 3")
    grid = registry.add_sweep(name="grid", label="whole", spec="{}", size=3)
    registry.register(grid.id, trained(3))
    registry.reactivate(grid.id)
    assert registry.counts(grid.id).queued == 3
    assert told.job_id in {one.job_id for one in claim(registry, agent)} | {
        one.job_id for one in claim(registry, agent)
    }


def test_a_trial_that_another_sweep_wants_whole_is_queued_for_it_when_it_is_stopped(
    registry: Registry, tuned: Sweep
) -> None:
    grid = registry.add_sweep(name="grid", label="whole", spec="{}", size=3)
    registry.register(grid.id, trained(3))
    agent, told = run(registry, tuned)
    registry.fail(agent, [told], FailureClass.STOPPED, "at epoch 1")
    assert registry.jobs(tuned.id)[0].state is State.QUEUED
    registry.end_trial(tuned.id, told.job_id, 1)
    assert registry.jobs(tuned.id)[0].state is State.QUEUED
    assert registry.trial_ended_after(grid.id, told.job_id) is None


def test_a_queued_trial_can_be_stopped(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    assert registry.trial_ended_after(tuned.id, told.job_id) is None
    registry.end_trial(tuned.id, told.job_id, 3)
    assert registry.jobs(tuned.id)[0].state is State.RUNNING
    registry.retire(agent)
    registry.end_trial(tuned.id, told.job_id, 1)
    assert registry.jobs(tuned.id)[0].state is State.CANCELLED
    assert registry.trial_ended_after(tuned.id, told.job_id) == 3


def test_an_agent_that_lost_its_lease_reports_nothing(registry: Registry, tuned: Sweep) -> None:
    agent, told = run(registry, tuned)
    registry.bury(agent, FailureClass.LOST, "gone")
    registry.report(agent, told, EPOCHS)
    assert registry.reports([told.job_id]) == {}


def test_an_invalidated_job_has_no_reports_and_no_end_of_its_trial(registry: Registry, tuned: Sweep) -> None:
    from tests.db.test_leases import result

    agent, told = run(registry, tuned)
    registry.report(agent, told, EPOCHS)
    assert registry.finish(agent, [result(told, "p1")]).jobs == {told.job_id}
    assert [one.publication for one in registry.committed_job(told.job_id)] == ["p1"]
    registry.end_trial(tuned.id, told.job_id, 3)
    registry.invalidate([told.job_id], "wrong data")
    assert registry.reports([told.job_id]) == {}
    assert registry.trial_ended_after(tuned.id, told.job_id) is None
    assert registry.committed_job(told.job_id) == []
