"""Looking at a sweep again and again: bounded reads that see what a full read sees."""

from __future__ import annotations

import math

from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Sweep
from qsweep.db.states import State
from tests.db.conftest import agent_info, claim, trained


def test_changes_are_those_of_the_sweep_in_order_and_the_newest_first(registry: Registry, sweep: Sweep) -> None:
    other = registry.sweeps.add(name="other", label="b", spec="{}", size=0)
    registry.sweeps.register(sweep.id, trained(3))
    registry.sweeps.register(other.id, trained(5)[2:])  # shares the third
    agent = registry.agents.enlist(agent_info())
    held = claim(registry, agent)
    registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p") for one in held])
    numbers, forward = registry.history.news(sweep.id, None, [(1, None)], 100)
    assert numbers == [one.id for one in registry.history.events()]
    assert {one.identity for one in forward} == {job.identity for job in trained(3)}
    assert [one.id for one in forward] == sorted(one.id for one in forward)
    assert [one.id for one in registry.history.recent_changes(sweep.id, 100)] == [one.id for one in reversed(forward)]
    part = registry.history.news(sweep.id, None, [(forward[3].id, forward[3].id), (forward[4].id, None)], 100)[1]
    assert part == forward[3:]
    done = [one for one in forward if one.target is State.DONE]
    assert {one.publication for one in done} == {"p"}
    assert {one.cohort_key for one in done} == {trained(1)[0].cohort_key}


def test_the_work_of_a_sweep_is_the_cost_of_its_jobs_by_state(registry: Registry, sweep: Sweep) -> None:
    other = registry.sweeps.add(name="other", label="b", spec="{}", size=0)
    registry.sweeps.register(sweep.id, trained(4))
    registry.sweeps.register(other.id, trained(2) + trained(1, depth=2))
    agent = registry.agents.enlist(agent_info())
    registry.queue.claim(agent, registry.queue.next_cohort(agent), 1)  # type: ignore[arg-type]
    for one in (sweep, other):
        jobs = registry.catalogue.jobs(one.id)
        for state, cost in registry.history.inventory(one.id, None).work.items():
            assert math.isclose(cost, sum(row.cost for row in jobs if row.state is state))


def test_done_jobs_are_paged_in_order(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(5))
    agent = registry.agents.enlist(agent_info())
    held = claim(registry, agent, 4)
    registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p") for one in held])
    first = registry.history.done_after(sweep.id, 0, 3)
    rest = registry.history.done_after(sweep.id, first[-1].id, 3)
    assert [one.identity for one in first + rest] == [row.job for row in registry.catalogue.committed(sweep.id)]


def test_the_pulse_tells_whether_anybody_has_changed_anything(registry: Registry, sweep: Sweep, url: str) -> None:
    before = registry.catalogue.pulse()
    if not url.endswith(".db"):
        assert before is None
        return
    registry.catalogue.counts(sweep.id)
    assert registry.catalogue.pulse() == before
    registry.sweeps.register(sweep.id, trained(1))
    own = registry.catalogue.pulse()
    assert own != before
    with Registry.open(url) as other:
        other.catalogue.counts(sweep.id)
        assert registry.catalogue.pulse() == own
        other.agents.enlist(agent_info())
    assert registry.catalogue.pulse() != own
