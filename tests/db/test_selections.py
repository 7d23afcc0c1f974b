"""A selection bounds what the agents of one launch may claim, and nothing else."""

from __future__ import annotations

from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Scope, Sweep
from qsweep.db.states import FailureClass
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from tests.db.conftest import agent_info, trained


def drain(registry: Registry, agent: int, scope: Scope) -> list[str]:
    """Claims and finishes until nothing is left in the scope; the identities, in their order."""
    found: list[str] = []
    while head := registry.next_cohort(agent, scope):
        claims = registry.claim(agent, head, 16, scope)
        registry.finish(agent, [Finished(job_id=one.job_id, attempt=one.attempt, publication="p") for one in claims])
        found += [one.job.identity for one in claims]
    return found


def test_only_the_selected_jobs_are_claimed_and_counted(registry: Registry, sweep: Sweep) -> None:
    jobs = trained(6) + trained(2, depth=2)
    registry.register(sweep.id, jobs)
    chosen = [jobs[1], jobs[4], jobs[7]]
    scope = Scope(sweep=sweep.id, selection=registry.select(chosen))
    assert registry.counts(sweep.id, scope.selection).queued == 3
    done = drain(registry, registry.enlist(agent_info()), scope)
    assert sorted(done) == sorted(job.identity for job in chosen)
    assert registry.counts(sweep.id, scope.selection).done == 3
    assert [row.identity for row in registry.jobs(sweep.id, selection=scope.selection)] == [
        one.identity for one in chosen
    ]
    assert registry.counts(sweep.id).queued == 5


def test_selections_do_not_touch_each_other_and_the_same_jobs_are_the_same_one(
    registry: Registry, sweep: Sweep
) -> None:
    jobs = trained(4)
    registry.register(sweep.id, jobs)
    one, other = registry.select(jobs[:2]), registry.select(jobs[1:])
    assert one != other
    assert registry.select(reversed(jobs[:2])) == one
    agent = registry.enlist(agent_info())
    assert len(drain(registry, agent, Scope(sweep=sweep.id, selection=one))) == 2
    assert len(drain(registry, agent, Scope(sweep=sweep.id, selection=other))) == 2
    assert drain(registry, agent, Scope(sweep=sweep.id)) == []


def test_an_agent_waits_only_for_what_is_selected(registry: Registry, sweep: Sweep) -> None:
    jobs = trained(1) + trained(1, depth=2)
    registry.register(sweep.id, jobs)
    scopes = [Scope(sweep=sweep.id, selection=registry.select([job])) for job in jobs]
    agent = registry.enlist(agent_info())
    head = registry.next_cohort(agent, scopes[0])
    assert head is not None
    claims = registry.claim(agent, head, 16, scopes[0])
    assert registry.remaining(scopes[0]).running
    assert not registry.remaining(scopes[1]).running
    assert registry.remaining(scopes[1]).queued
    for _ in range(2):  # the second loss of a job has a backoff
        registry.fail(agent, claims, FailureClass.LOST, "gone")
        head = registry.next_cohort(agent, scopes[0])
        claims = registry.claim(agent, head, 16, scopes[0]) if head else []
    assert registry.remaining(scopes[0]).delay is not None
    assert registry.remaining(scopes[1]).delay is None


def test_a_selected_child_comes_next_to_its_parent_and_another_does_not(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    children = [
        Job(training=parent.training, kind=FLATNESS, parent=parent.identity, measure=PacBayes(iterations=count))
        for count in (5, 6)
    ]
    registry.register(sweep.id, [parent, *children])
    scope = Scope(sweep=sweep.id, selection=registry.select([parent, children[1]]))
    agent = registry.enlist(agent_info())
    assert drain(registry, agent, scope) == [parent.identity, children[1].identity]
    ids = [row.id for row in registry.jobs(sweep.id) if row.identity == parent.identity]
    assert registry.next_cohort(agent, scope, parents=ids) is None
    head = registry.next_cohort(agent, Scope(sweep=sweep.id), parents=ids)
    assert head is not None
    assert head.job == children[0]
