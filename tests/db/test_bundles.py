"""What a registry does with jobs that left in a bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qsweep.db.errors import LeaseLost
from qsweep.db.looking import BUNDLE
from qsweep.db.registry import Registry
from qsweep.db.rows import Cancelled, Claim, Finished, Scope, Sweep
from qsweep.db.states import AgentState, FailureClass, State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from tests.db.conftest import agent_info, claim, trained

Execute = Callable[[str], list[Any]]


def finished(claims: list[Claim]) -> list[Finished]:
    return [Finished(job_id=one.job_id, attempt=one.attempt, publication="far-1") for one in claims]


def packed(registry: Registry, sweep: Sweep, token: str = "token") -> tuple[int, list[Claim]]:
    holder = registry.enlist(agent_info(boot_id="now", backend=BUNDLE))
    claims = registry.pack(holder, "far.zip", [row.id for row in registry.jobs(sweep.id)])
    registry.send_away(holder, "far.zip", token)
    return holder, claims


def test_a_bundle_takes_what_waits_and_nothing_else(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(5))
    agent = registry.enlist(agent_info())
    running = claim(registry, agent, 2)
    holder, claims = packed(registry, sweep)
    assert [one.job_id for one in claims] == [3, 4, 5]
    assert {one.attempt for one in claims} == {1}
    assert not {one.job_id for one in running} & {one.job_id for one in claims}
    (bundle,) = registry.bundles()
    assert (bundle.id, bundle.name, bundle.token, bundle.state, bundle.jobs) == (
        holder, "far.zip", "token", AgentState.AWAY, 3,
    )  # fmt: skip
    counts = registry.counts(sweep.id)
    assert (counts.running, counts.away) == (5, 3)
    assert [one.id for one in registry.agents()] == [agent]


def test_packing_again_after_a_lost_answer_finds_the_same_bundle(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    holder = registry.enlist(agent_info(backend=BUNDLE))
    claims = registry.pack(holder, "far.zip", [1, 2])
    assert len(claims) == 2
    assert registry.pack(holder, "far.zip", [1, 2]) == claims
    registry.send_away(holder, "far.zip", "token")
    registry.send_away(holder, "far.zip", "token")
    assert packed(registry, sweep, "another")[1] == []
    with pytest.raises(LeaseLost):
        registry.send_away(holder, "far.zip", "another")


def test_what_is_being_packed_comes_back_when_its_packer_dies(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.register(sweep.id, trained(2))
    holder = registry.enlist(agent_info(backend=BUNDLE))
    registry.pack(holder, "far.zip", [1, 2])
    assert registry.bundles() == []
    assert registry.counts(sweep.id).away == 0
    assert registry.remaining().running
    execute("UPDATE agents SET expires = expires - 1000000")
    agent = registry.enlist(agent_info())
    assert len(claim(registry, agent)) == 2
    with pytest.raises(LeaseLost):
        registry.send_away(holder, "far.zip", "token")
    with pytest.raises(LeaseLost):
        registry.pack(holder, "far.zip", [1, 2])
    assert registry.recall(holder) == 0


def test_packing_that_is_given_up_queues_its_jobs_at_once(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    holder = registry.enlist(agent_info(backend=BUNDLE))
    registry.pack(holder, "far.zip", [1, 2])
    assert registry.recall(holder) == 2
    assert len(claim(registry, registry.enlist(agent_info()))) == 2


def test_no_clock_takes_back_what_is_away(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.register(sweep.id, trained(2))
    packed(registry, sweep)
    execute("UPDATE agents SET expires = expires - 1000000, clock = 'an earlier boot'")
    assert registry.take_back_expired() == 0
    assert registry.bury_dead_processes(host="here", boot_id="now", is_alive=lambda *_: False) == 0
    assert registry.next_cohort(registry.enlist(agent_info())) is None
    assert registry.bundles()[0].jobs == 2


def test_nobody_waits_for_what_is_away(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    packed(registry, sweep)
    assert registry.remaining().nothing
    assert registry.remaining(Scope(sweep=sweep.id)).nothing


def test_results_from_away_count_once_and_the_holder_retires_with_the_last(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(3))
    holder, claims = packed(registry, sweep)
    assert registry.finish(holder, finished(claims[:2])).jobs == {1, 2}
    registry.land(holder, host="far", device="cuda", build="2.11")
    assert registry.bundles()[0].state is AgentState.AWAY
    assert registry.finish(holder, finished(claims)).jobs == {1, 2, 3}
    registry.land(holder, host="far", device="cuda", build="2.11")
    assert registry.bundles()[0].state is AgentState.RETIRED
    assert len([event for event in registry.events() if event.target is State.DONE]) == 3
    (attempt,) = registry.attempts(1)
    assert (attempt.host, attempt.device, attempt.outcome) == ("far", "cuda", State.DONE)


def test_what_was_recalled_is_queued_at_once_and_its_results_are_refused(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    holder, claims = packed(registry, sweep)
    assert registry.recall(holder) == 2
    assert registry.recall(holder) == 0
    assert registry.finish(holder, finished(claims)).jobs == frozenset()
    again = claim(registry, registry.enlist(agent_info()))
    assert [one.attempt for one in again] == [2, 2]
    assert registry.finish(holder, finished(claims)).jobs == frozenset()


def test_a_failure_there_costs_what_it_costs_here(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    holder, (first, second) = packed(registry, sweep)
    registry.fail(holder, [first], FailureClass.INPUT, "unreadable")
    registry.fail(holder, [second], FailureClass.CRASH, "Killed")
    rows = registry.jobs(sweep.id)
    assert [(row.state, row.failure_class) for row in rows] == [
        (State.FAILED, FailureClass.INPUT),
        (State.QUEUED, FailureClass.CRASH),
    ]


@pytest.mark.parametrize("parent_done", [True, False])
def test_a_child_leaves_with_its_parent_or_after_it(registry: Registry, sweep: Sweep, parent_done: bool) -> None:
    (parent,) = trained(1)
    child = Job(training=parent.training, kind=FLATNESS, parent=parent.identity, measure=PacBayes())
    registry.register(sweep.id, [parent, child])
    if parent_done:
        agent = registry.enlist(agent_info())
        registry.finish(agent, finished(claim(registry, agent)))
        holder, claims = packed(registry, sweep)
        assert [(one.job_id, one.parent.attempt) for one in claims if one.parent] == [(2, 1)]
        return
    assert registry.pack(registry.enlist(agent_info(backend=BUNDLE)), "far", [2]) == []
    holder, claims = packed(registry, sweep)
    assert [one.job_id for one in claims] == [1, 2]
    assert registry.finish(holder, finished(claims)).jobs == {1, 2}
    assert [row.state for row in registry.jobs(sweep.id)] == [State.DONE, State.DONE]


def test_cancelling_a_sweep_leaves_what_is_away_to_be_counted_or_recalled(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    holder, claims = packed(registry, sweep)
    assert registry.cancel(sweep.id) == Cancelled(queued=0, running=0)
    assert registry.finish(holder, finished(claims[:1])).jobs == {1}
    assert registry.recall(holder) == 1
    assert [row.state for row in registry.jobs(sweep.id)] == [State.DONE, State.CANCELLED]
