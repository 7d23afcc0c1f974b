"""Law 4: what each class of failure costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Sweep
from qsweep.db.states import FailureClass, State, SweepState
from tests.db.conftest import agent_info, claim, trained
from tests.db.test_claims import saved

Execute = Callable[[str], list[Any]]
RESTED = "UPDATE jobs SET not_before = NULL"


@pytest.fixture
def agent(registry: Registry) -> int:
    return registry.agents.enlist(agent_info(lease=8.0))


def test_after_a_crash_in_company_each_member_runs_alone(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    registry.queue.fail(agent, claim(registry, agent), FailureClass.CRASH, "boom")
    assert registry.catalogue.counts(sweep.id).queued == 3
    head = registry.queue.next_cohort(agent)
    assert head is not None
    assert head.alone
    claims = registry.queue.claim(agent, head, 16)
    assert [one.alone for one in claims] == [True]


def test_a_poisoned_job_fails_after_dying_alone_three_times_and_takes_nobody_with_it(
    registry: Registry, sweep: Sweep, agent: int
) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    poisoned = registry.catalogue.jobs(sweep.id)[1].id
    executions = 0
    while claims := claim(registry, agent):
        if poisoned in {one.job_id for one in claims}:
            executions += 1
            registry.agents.mark_dead(agent, FailureClass.CRASH, "the process died\nSIGSEGV")
            agent = registry.agents.enlist(agent_info())
        else:
            registry.queue.finish(
                agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication="p") for c in claims]
            )
    assert executions == 1 + 3
    counts = registry.catalogue.counts(sweep.id)
    assert (counts.done, counts.failed) == (2, 1)
    row = registry.catalogue.jobs(sweep.id, State.FAILED)[0]
    assert (row.id, row.failure_class) == (poisoned, FailureClass.CRASH)
    assert "SIGSEGV" in row.error


def test_a_crash_after_a_newer_checkpoint_costs_nothing(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    for step in range(1, 6):
        claims = claim(registry, agent)
        assert len(claims) == 2
        registry.queue.checkpointed(agent, [saved(one, step) for one in claims])
        registry.queue.fail(agent, claims, FailureClass.CRASH, "boom")
    assert registry.catalogue.counts(sweep.id).queued == 2


def test_out_of_memory_halves_the_slots_down_to_one_with_three_tries(
    registry: Registry, sweep: Sweep, agent: int
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    limits: list[int | None] = []
    while head := registry.queue.next_cohort(agent):
        limits.append(head.slots_limit)
        slots = head.slots_limit or 8
        claims = registry.queue.claim(agent, head, slots)
        registry.queue.fail(agent, claims, FailureClass.MEMORY, "out of memory", slots=slots)
    # All four at 8 slots, then at 4; two at 2, each of them three times at 1; the other two the same way.
    assert limits == [None, 4, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert registry.catalogue.counts(sweep.id).failed == 4


def test_jobs_with_other_slots_do_not_join_a_halved_cohort(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    registry.queue.fail(agent, claim(registry, agent, 2), FailureClass.MEMORY, "out of memory", slots=2)
    assert {one.slots_limit for one in claim(registry, agent)} in ({None}, {1})


@pytest.mark.parametrize("failure", [FailureClass.TIMEOUT, FailureClass.INPUT])
def test_a_timeout_and_bad_input_fail_at_once(
    registry: Registry, sweep: Sweep, agent: int, failure: FailureClass
) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    registry.queue.fail(agent, claim(registry, agent), failure, "no")
    assert registry.catalogue.counts(sweep.id).failed == 1


def fail_once(registry: Registry, agent: int, execute: Execute, failure: FailureClass) -> int:
    """Let this agent end the next job in this class; its number."""
    execute(RESTED)
    (one,) = claim(registry, agent, 1)
    registry.queue.checkpointed(agent, [saved(one, 40)])
    registry.queue.fail(agent, [one], failure, "no")
    return one.job_id


@pytest.mark.parametrize("failure", [FailureClass.TIMEOUT, FailureClass.INPUT])
def test_a_timeout_and_bad_input_have_to_be_found_by_a_second_machine_if_one_is_at_work(
    registry: Registry, sweep: Sweep, execute: Execute, failure: FailureClass
) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    slow, other = (registry.agents.enlist(agent_info(host=name)) for name in "ab")
    (busy,) = claim(registry, other, 1)
    poor = fail_once(registry, slow, execute, failure)
    (again,) = (row for row in registry.catalogue.jobs(sweep.id, State.QUEUED) if row.id == poor)
    assert again.failure_class == failure
    assert registry.queue.remaining().delay is not None  # so that the other machine may have it
    assert fail_once(registry, slow, execute, failure) == poor
    assert registry.catalogue.counts(sweep.id).failed == 0
    assert fail_once(registry, other, execute, failure) == poor
    assert [(row.id, row.failure_class) for row in registry.catalogue.jobs(sweep.id, State.FAILED)] == [(poor, failure)]
    assert registry.sweeps.retry(sweep.id).queued == 1
    assert fail_once(registry, other, execute, failure) == poor
    assert registry.catalogue.counts(sweep.id).failed == 0
    assert busy.job_id != poor


def test_two_agents_of_one_machine_are_one_witness_of_a_timeout(
    registry: Registry, sweep: Sweep, agent: int, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    beside = registry.agents.enlist(agent_info())
    claim(registry, beside, 1)
    fail_once(registry, agent, execute, FailureClass.TIMEOUT)
    assert registry.catalogue.counts(sweep.id).failed == 1


def test_bad_input_on_one_machine_is_not_repeated_for_ever_and_lets_it_stop(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(6))
    poor, other = (registry.agents.enlist(agent_info(host=name)) for name in "ab")
    (done,) = claim(registry, other, 1)
    registry.queue.finish(other, [Finished(job_id=done.job_id, attempt=done.attempt, publication="p")])
    (busy,) = claim(registry, other, 1)
    first = fail_once(registry, poor, execute, FailureClass.INPUT)
    for _ in range(7):
        assert fail_once(registry, poor, execute, FailureClass.INPUT) == first
        assert registry.catalogue.counts(sweep.id).failed == 0
    assert fail_once(registry, poor, execute, FailureClass.INPUT) == first
    assert registry.catalogue.counts(sweep.id).failed == 1
    assert "bad input" in registry.queue.reason_to_stop(poor)
    assert busy.job_id != first


def test_losses_are_unlimited_and_wait_longer_each_time_but_never_longer_than_a_lease(
    registry: Registry, sweep: Sweep, agent: int, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    delays = []
    for _ in range(7):
        registry.queue.release(agent, claim(registry, agent), "SIGTERM")
        delays.append(registry.queue.remaining().delay)
        assert (registry.queue.next_cohort(agent) is None) == (delays[-1] is not None)
        execute(RESTED)
    assert delays[0] is None
    for delay, full in zip(delays[1:], (1, 2, 4, 8, 8, 8), strict=True):
        assert delay is not None
        assert full - 0.5 < delay <= full
    assert registry.catalogue.counts(sweep.id).queued == 1


def test_a_backoff_from_before_a_reboot_is_over(registry: Registry, sweep: Sweep, agent: int, execute: Execute) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    execute("UPDATE jobs SET not_before = 1e12")
    assert registry.queue.next_cohort(agent) is not None


def test_a_sweep_whose_jobs_fail_alike_is_paused_and_says_why(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(30))
    while claims := claim(registry, agent, 1):
        registry.queue.fail(agent, claims, FailureClass.INPUT, "Traceback\nValueError: no such file")
    found = registry.catalogue.find_sweep("grid")
    assert found.state == SweepState.PAUSED
    assert "ValueError: no such file" in found.reason
    assert registry.catalogue.counts(sweep.id).failed == 10
    registry.sweeps.reactivate(sweep.id)
    registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.INPUT, "Traceback\nValueError: no such file")
    assert registry.catalogue.find_sweep("grid").state == SweepState.ACTIVE


def test_failures_of_different_kinds_do_not_pause_a_sweep(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(30))
    for number in range(30):
        registry.queue.fail(
            agent, claim(registry, agent, 1), FailureClass.INPUT, "the same words", kind=f"Kind{number % 5}"
        )
    assert registry.catalogue.find_sweep("grid").state == SweepState.ACTIVE


def test_jobs_that_all_run_into_the_time_limit_pause_their_sweep_whatever_their_words(
    registry: Registry, sweep: Sweep, agent: int
) -> None:
    registry.sweeps.register(sweep.id, trained(30))
    step = 0
    while claims := claim(registry, agent, 1):
        step += 7
        registry.queue.fail(agent, claims, FailureClass.TIMEOUT, f"not done after 60 s, at step {step} of 900")
    assert registry.catalogue.counts(sweep.id).failed == 10
    found = registry.catalogue.find_sweep("grid")
    assert found.state == SweepState.PAUSED
    assert "at step 70 of 900" in found.reason


def test_one_weak_agent_alone_does_not_use_up_the_tries_of_jobs_while_another_is_at_work(
    registry: Registry, sweep: Sweep, agent: int, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    healthy, weak = agent, registry.agents.enlist(agent_info(lease=8.0))
    busy = claim(registry, healthy, 1)
    for _ in range(15):
        execute(RESTED)
        if claims := claim(registry, weak, 1):
            registry.queue.fail(weak, claims, FailureClass.MEMORY, "out of memory", slots=1)
            assert registry.catalogue.counts(sweep.id).failed <= 1
            if registry.catalogue.counts(sweep.id).failed:
                break
    failed = registry.catalogue.jobs(sweep.id, State.FAILED)
    assert [row.attempt for row in failed] in ([], [9])  # not after three of its own
    registry.queue.finish(healthy, [Finished(job_id=one.job_id, attempt=one.attempt, publication="p") for one in busy])


def test_two_agents_find_out_that_a_job_is_at_fault_by_three_tries(
    registry: Registry, sweep: Sweep, agent: int, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    other, third = registry.agents.enlist(agent_info(lease=8.0)), registry.agents.enlist(agent_info(lease=8.0))
    busy = claim(registry, third, 1)
    poisoned = registry.catalogue.jobs(sweep.id)[1].id
    for one in (agent, agent, other):
        execute(RESTED)
        claims = claim(registry, one, 1)
        assert [held.job_id for held in claims] == [poisoned]
        registry.queue.fail(one, claims, FailureClass.CRASH, "boom", kind="ValueError")
    assert [row.id for row in registry.catalogue.jobs(sweep.id, State.FAILED)] == [poisoned]
    assert len(busy) == 1


def try_in_vain(registry: Registry, agent: int, execute: Execute) -> int:
    """Let this agent run out of memory with one job alone; its number."""
    execute(RESTED)
    (one,) = claim(registry, agent, 1)
    registry.queue.fail(agent, [one], FailureClass.MEMORY, "out of memory", slots=1)
    return one.job_id


def test_a_machine_whose_agents_are_killed_and_started_again_is_one_witness_and_not_many(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(1, width=1))
    registry.sweeps.register(sweep.id, trained(4))  # larger, so that they come first
    healthy = [registry.agents.enlist(agent_info(host=name)) for name in ("second", "third")]
    busy = [one for agent in healthy for one in claim(registry, agent, 2)]
    for tries in range(1, 9):
        weak = registry.agents.enlist(agent_info(host="weak", pid=tries))
        execute(RESTED)
        (poor,) = claim(registry, weak, 1)
        registry.agents.mark_dead(weak, FailureClass.MEMORY, "killed by the kernel", slots=1)
        assert registry.catalogue.counts(sweep.id).failed == 0, f"{tries} tries of one machine"
    weak = registry.agents.enlist(agent_info(host="weak"))
    execute(RESTED)
    assert [one.job_id for one in claim(registry, weak, 1)] == [poor.job_id]
    registry.agents.mark_dead(weak, FailureClass.MEMORY, "killed by the kernel", slots=1)
    assert registry.catalogue.counts(sweep.id).failed == 1  # but nothing is repeated for ever
    assert len(busy) == 4


def test_as_many_machines_must_have_tried_a_job_as_are_at_work_up_to_three(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    first, second, third, fourth = (registry.agents.enlist(agent_info(host=name)) for name in "abcd")
    busy = {agent: claim(registry, agent, 1) for agent in (second, third, fourth)}
    poor = try_in_vain(registry, first, execute)
    assert try_in_vain(registry, first, execute) == poor
    for one in (second, second):
        assert try_in_vain(registry, one, execute) == poor
    assert registry.catalogue.counts(sweep.id).failed == 0
    assert try_in_vain(registry, third, execute) == poor
    assert [row.id for row in registry.catalogue.jobs(sweep.id, State.FAILED)] == [poor]
    assert len(busy) == 3


def test_on_one_machine_alone_a_job_has_three_tries_however_often_its_agent_is_started_again(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    registry.agents.retire(registry.agents.enlist(agent_info(host="elsewhere")))
    registry.agents.enlist(agent_info(host="silent", lease=-1.0))
    for tries in range(3):
        assert registry.catalogue.counts(sweep.id).failed == 0
        agent = registry.agents.enlist(agent_info(pid=tries, place="launch/0"))
        execute(RESTED)
        claim(registry, agent, 1)
        registry.agents.mark_dead(agent, FailureClass.CRASH, "the process died")
    assert registry.catalogue.counts(sweep.id).failed == 1


def test_agents_that_follow_each_other_in_one_place_of_a_machine_are_one_witness(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    beside = registry.agents.enlist(agent_info(place="launch/1"))
    (busy,) = claim(registry, beside, 1)
    for tries in range(8):
        agent = registry.agents.enlist(agent_info(pid=tries, place="launch/0"))
        execute(RESTED)
        claim(registry, agent, 1)
        registry.agents.mark_dead(agent, FailureClass.MEMORY, "killed by the kernel", slots=1)
        assert registry.catalogue.counts(sweep.id).failed == 0
    registry.queue.finish(beside, [Finished(job_id=busy.job_id, attempt=busy.attempt, publication="p")])
    try_in_vain(registry, beside, execute)
    assert registry.catalogue.counts(sweep.id).failed == 1


def test_a_retry_gives_a_fresh_budget_to_failures_of_one_class(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.INPUT, "no")
    registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.TIMEOUT, "late")
    assert registry.sweeps.retry(sweep.id, failure_class=FailureClass.TIMEOUT).queued == 1
    assert registry.catalogue.counts(sweep.id).failed == 1
    assert registry.sweeps.retry(sweep.id).queued == 1
    assert len(claim(registry, agent)) == 2


def test_every_attempt_keeps_its_own_story(registry: Registry, sweep: Sweep, agent: int) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    one = claim(registry, agent)[0]
    registry.queue.checkpointed(agent, [saved(one, 40)])
    registry.queue.fail(agent, [one], FailureClass.CRASH, "x" * 100_000 + "\nKeyError: 'y'")
    again = claim(registry, agent)[0]
    registry.queue.finish(agent, [Finished(job_id=again.job_id, attempt=again.attempt, publication="p")])
    first, second = registry.history.attempts(one.job_id)
    assert (first.attempt, first.resumed_from, first.outcome) == (1, 0, State.QUEUED)
    assert first.error.endswith("KeyError: 'y'")
    assert len(first.error) < 10_000
    assert (second.attempt, second.resumed_from, second.outcome) == (2, 40, State.DONE)
    assert (second.publication, second.host, second.log) == ("p", "here", "agent.log")
    assert first.ended_at is not None
    assert first.started_at <= first.ended_at <= second.started_at
