"""Looking at a sweep again and again: bounded reads that see what a full read sees."""

from __future__ import annotations

import math

from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Scope, Sweep
from qsweep.db.states import FailureClass, State
from tests.db.conftest import agent_info, claim, trained


def test_changes_are_those_of_the_sweep_in_order_and_the_newest_first(registry: Registry, sweep: Sweep) -> None:
    other = registry.add_sweep(name="other", label="b", spec="{}", size=0)
    registry.register(sweep.id, trained(3))
    registry.register(other.id, trained(5)[2:])  # shares the third
    agent = registry.enlist(agent_info())
    held = claim(registry, agent)
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p") for one in held])
    forward = registry.changes(sweep.id, since=0, limit=100)
    assert {one.identity for one in forward} == {job.identity for job in trained(3)}
    assert [one.id for one in forward] == sorted(one.id for one in forward)
    assert [one.id for one in registry.recent_changes(sweep.id, 100)] == [one.id for one in reversed(forward)]
    assert registry.changes(sweep.id, since=forward[2].id, limit=2) == forward[3:5]
    done = [one for one in forward if one.target is State.DONE]
    assert {one.publication for one in done} == {"p"}
    assert {one.cohort_key for one in done} == {trained(1)[0].cohort_key}


def test_the_work_of_a_sweep_is_the_cost_of_its_jobs_by_state(registry: Registry, sweep: Sweep) -> None:
    other = registry.add_sweep(name="other", label="b", spec="{}", size=0)
    registry.register(sweep.id, trained(4))
    registry.register(other.id, trained(2) + trained(1, depth=2))
    agent = registry.enlist(agent_info())
    registry.claim(agent, registry.next_cohort(agent), 1)  # type: ignore[arg-type]
    for one in (sweep, other):
        jobs = registry.jobs(one.id)
        for state, cost in registry.work(one.id).items():
            assert math.isclose(cost, sum(row.cost for row in jobs if row.state is state))


def test_done_jobs_are_paged_in_order(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(5))
    agent = registry.enlist(agent_info())
    held = claim(registry, agent, 4)
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p") for one in held])
    first = registry.done_after(sweep.id, 0, 3)
    rest = registry.done_after(sweep.id, first[-1].id, 3)
    assert [one.identity for one in first + rest] == [row.job for row in registry.committed(sweep.id)]


def test_activity_names_the_agents_that_had_a_job_of_the_sweep_since(registry: Registry, sweep: Sweep) -> None:
    other = registry.add_sweep(name="other", label="b", spec="{}", size=0)
    registry.register(sweep.id, trained(3))
    registry.register(other.id, trained(2, depth=2))
    begin = registry.activity(sweep.id, since=0)
    assert (begin.events, begin.agents) == (0, frozenset())
    assert begin.newest == registry.newest_event()
    mine, idle, foreign = (registry.enlist(agent_info()) for _ in range(3))
    head = registry.next_cohort(mine, Scope(sweep=sweep.id))
    assert head is not None
    registry.claim(mine, head, 2, Scope(sweep=sweep.id))
    claim(registry, foreign)
    registry.retire(idle)
    now = registry.activity(sweep.id, since=begin.newest)
    held = [one for one in registry.events(sweep_id=sweep.id, since=begin.newest) if one.target is State.RUNNING]
    assert now.events == len(held) >= 2
    assert now.agents == {one.agent_id for one in held}
    assert mine in now.agents
    assert idle not in now.agents
    assert registry.activity(sweep.id, since=now.newest).events == 0
    registry.bury(mine, FailureClass.CRASH, "died")
    assert registry.activity(sweep.id, since=now.newest).agents == {mine}


def test_the_pulse_tells_whether_anybody_has_changed_anything(registry: Registry, sweep: Sweep, url: str) -> None:
    before = registry.pulse()
    if not url.endswith(".db"):
        assert before is None
        return
    registry.counts(sweep.id)
    assert registry.pulse() == before
    registry.register(sweep.id, trained(1))
    own = registry.pulse()
    assert own != before
    with Registry.open(url) as other:
        other.counts(sweep.id)
        assert registry.pulse() == own
        other.enlist(agent_info())
    assert registry.pulse() != own
