"""Law 4: who only fails, while others succeed, stops; and who may not be blamed for its jobs goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qsweep.db.budgets import TRIES_IN_ALL
from qsweep.db.registry import Registry
from qsweep.db.rows import Claim, Finished, Sweep
from qsweep.db.states import AgentState, FailureClass
from tests.db.conftest import agent_info, claim, trained
from tests.db.test_claims import saved

Execute = Callable[[str], list[Any]]
RESTED = "UPDATE jobs SET not_before = NULL"


@pytest.fixture
def weak(registry: Registry, sweep: Sweep) -> int:
    registry.register(sweep.id, trained(30))
    return registry.enlist(agent_info(host="weak"))


@pytest.fixture
def healthy(registry: Registry, weak: int) -> int:
    return registry.enlist(agent_info(host="healthy"))


def work(registry: Registry, agent: int, jobs: int = 1) -> None:
    """Do so many jobs, and begin one more."""
    for one in claim(registry, agent, jobs):
        registry.finish(agent, [done(one)])
    claim(registry, agent, 1)


def done(one: Claim) -> Finished:
    return Finished(job_id=one.job_id, attempt=one.attempt, publication="p")


def fail(registry: Registry, agent: int, times: int, failure: FailureClass = FailureClass.MEMORY) -> list[str]:
    """Try one job after another in vain; after each, what is said of the agent."""
    said = []
    for _ in range(times):
        registry.fail(agent, claim(registry, agent, 1), failure, "no", slots=1, kind="ValueError")
        said.append(registry.reason_to_stop(agent))
    return said


def test_four_failures_and_nothing_done_while_another_succeeds_are_a_reason_to_stop(
    registry: Registry, weak: int, healthy: int
) -> None:
    work(registry, healthy)
    *before, reason = fail(registry, weak, 4)
    assert before == ["", "", ""]
    assert reason == "its last 4 tries all failed (out of memory), while others succeed"


def test_a_training_that_another_brings_forward_says_as_much_as_one_that_it_has_done(
    registry: Registry, weak: int, healthy: int
) -> None:
    held = claim(registry, healthy, 1)
    assert fail(registry, weak, 5, FailureClass.CRASH)[-1] == ""
    registry.checkpointed(healthy, [saved(held[0], 20)])
    assert "its last 4 tries all failed (crashed)" in fail(registry, weak, 1, FailureClass.CRASH)[0]


def test_who_is_alone_goes_on_whatever_others_did_before(registry: Registry, weak: int, healthy: int) -> None:
    work(registry, healthy, jobs=2)
    registry.retire(healthy)
    assert set(fail(registry, weak, 6)) == {""}


def test_success_with_other_cohorts_says_less_but_something_before_a_job_has_had_all_its_tries(
    registry: Registry, sweep: Sweep, weak: int
) -> None:
    registry.register(sweep.id, trained(3, epochs=3))
    healthy = registry.enlist(agent_info(host="healthy"))
    work(registry, healthy)  # the longer ones come first
    claim(registry, healthy, 3)
    *before, reason = fail(registry, weak, 8)
    assert set(before) == {""}
    assert reason.startswith("its last 8 tries all failed")
    assert TRIES_IN_ALL > 8


def test_a_job_that_another_has_tried_in_vain_too_says_nothing_of_either(
    registry: Registry, weak: int, healthy: int, execute: Execute
) -> None:
    work(registry, healthy)
    poor = claim(registry, weak, 1)
    registry.fail(weak, poor, FailureClass.CRASH, "no")
    other = registry.enlist(agent_info(host="other"))
    claim(registry, other, 1)  # three are at work
    execute(f"UPDATE jobs SET not_before = NULL, cost = 1e15 WHERE id = {poor[0].job_id}")
    for agent in (other, weak, weak, weak, weak):
        execute(RESTED)
        held = claim(registry, agent, 1)
        assert [one.job_id for one in held] == [poor[0].job_id]
        registry.fail(agent, held, FailureClass.CRASH, "no")
    assert [registry.reason_to_stop(one) for one in (weak, other)] == ["", ""]


def test_an_agent_that_has_done_a_job_before_may_fail_more_often(registry: Registry, weak: int, healthy: int) -> None:
    work(registry, healthy)
    registry.finish(weak, [done(one) for one in claim(registry, weak, 1)])
    *before, reason = fail(registry, weak, 12)
    assert set(before) == {""}
    assert reason.startswith("its last 12 tries all failed")
    registry.finish(weak, [done(one) for one in claim(registry, weak, 1)])
    assert registry.reason_to_stop(weak) == ""


def test_a_checkpoint_of_its_own_is_success(registry: Registry, weak: int, healthy: int) -> None:
    work(registry, healthy)
    assert set(fail(registry, weak, 3)) == {""}
    (one,) = claim(registry, weak, 1)
    registry.checkpointed(weak, [saved(one, 20)])
    assert registry.reason_to_stop(weak) == ""
    registry.fail(weak, [one], FailureClass.MEMORY, "no", slots=1)
    assert set(fail(registry, weak, 3)) == {""}
    assert fail(registry, weak, 1) != [""]


def test_agents_that_were_killed_count_with_those_that_follow_them_in_their_place(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.register(sweep.id, trained(12))
    work(registry, registry.enlist(agent_info(host="healthy")))
    said = []
    for pid in range(4):
        agent = registry.enlist(agent_info(host="weak", pid=pid, place="launch/0"))
        claim(registry, agent, 1)
        registry.bury(agent, FailureClass.MEMORY, "killed by the kernel", slots=1)
        said.append(registry.reason_to_stop(agent))
    assert [bool(one) for one in said] == [False, False, False, True]
    for changes in ({"place": "launch/1"}, {"place": "other/0"}, {"place": "launch/0", "boot_id": "next"}):
        fresh = registry.enlist(agent_info(host="weak", **changes) if "boot_id" in changes else agent_info(**changes))
        assert registry.reason_to_stop(fresh) == ""
    registry.stop(agent, said[-1])
    (stopped,) = registry.agents(AgentState.STOPPED)
    assert (stopped.id, stopped.reason, stopped.place) == (agent, said[-1], "launch/0")


def test_who_stops_hands_back_what_it_held_and_no_job_pays_for_it(
    registry: Registry, sweep: Sweep, weak: int, execute: Execute
) -> None:
    held = claim(registry, weak, 3)
    registry.stop(weak, "enough")
    assert registry.counts(sweep.id).queued == 30
    assert {(row.state, row.crashes) for row in execute("SELECT state, crashes FROM jobs")} == {("queued", 0)}
    assert registry.finish(weak, [done(one) for one in held]).jobs == frozenset()
    assert [one.id for one in registry.agents(AgentState.STOPPED)] == [weak]
