"""Sweeps and their jobs: registration, membership, cancelling, invalidation, and looking (law 5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from db.registration import _register, _rows
from db.registry import Registry
from db.rows import Calibration, Finished, Registered, Scope, Sweep
from db.states import TRANSITIONS, FailureClass, SweepState
from db.transaction import Transaction
from sweeps.errors import InputError
from sweeps.job import Job, Kind
from tests.db.conftest import agent_info, claim, trained

Execute = Callable[[str], list[Any]]


def finish_all(registry: Registry) -> int:
    agent = registry.enlist(agent_info())
    while claims := claim(registry, agent):
        registry.finish(agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication=f"p{agent}") for c in claims])
    return agent


def other_sweep(registry: Registry) -> Sweep:
    return registry.add_sweep(name="other", label="b", spec="{}", size=0)


def test_registering_the_same_jobs_again_adds_nothing(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    jobs = trained(5)
    assert registry.register(sweep.id, jobs[:3]) == Registered(new=3, shared=0, known=0)
    assert registry.register(sweep.id, jobs) == Registered(new=2, shared=0, known=3)
    before = execute("SELECT * FROM jobs"), execute("SELECT * FROM sweep_jobs")
    assert registry.register(sweep.id, jobs + jobs[:1]) == Registered(new=0, shared=0, known=5)
    assert before == (execute("SELECT * FROM jobs"), execute("SELECT * FROM sweep_jobs"))


def test_a_job_of_two_sweeps_is_computed_once(registry: Registry, sweep: Sweep) -> None:
    other = other_sweep(registry)
    registry.register(sweep.id, trained(3))
    finish_all(registry)
    assert registry.register(other.id, trained(5)) == Registered(new=2, shared=3, known=0)
    assert (registry.counts(other.id).done, registry.counts(other.id).queued) == (3, 2)
    assert len(registry.committed(other.id)) == 3


def test_registered_jobs_come_back_equal_and_in_order(registry: Registry, sweep: Sweep) -> None:
    jobs = trained(4, bits=2) + trained(3, depth=2)
    registry.register(sweep.id, jobs)
    assert [row.job for row in registry.jobs(sweep.id)] == jobs
    assert registry.job(jobs[2].identity[:20]).job == jobs[2]


def test_more_jobs_than_a_chunk_are_registered(registry: Registry, sweep: Sweep, monkeypatch: Any) -> None:
    monkeypatch.setattr("db.registration.CHUNK", 7)
    assert registry.register(sweep.id, trained(30)) == Registered(new=30, shared=0, known=0)
    assert [row.job for row in registry.jobs(sweep.id)] == trained(30)


def test_a_variant_launched_again_is_the_same_with_its_newest_text(registry: Registry, sweep: Sweep) -> None:
    again = registry.add_sweep(name="grid", label="a", spec='{"title":"x"}', size=4, code="c2", keep="none")
    assert (again.id, again.size, again.code, again.spec) == (sweep.id, 4, "c2", '{"title":"x"}')
    assert len(registry.sweeps()) == 1


def test_a_bare_name_means_the_variant_launched_last(registry: Registry, sweep: Sweep) -> None:
    registry.add_sweep(name="grid", label="b", spec="{}", size=0)
    assert registry.find_sweep("grid").label == "b"
    registry.add_sweep(name="grid", label="a", spec="{}", size=0)
    assert registry.find_sweep("grid").label == "a"
    assert registry.find_sweep("grid@b").label == "b"
    with pytest.raises(InputError, match="did you mean 'grid"):
        registry.find_sweep("gird")


def test_cancelling_leaves_the_jobs_of_other_sweeps_alone(registry: Registry, sweep: Sweep) -> None:
    other = other_sweep(registry)
    registry.register(sweep.id, trained(5))
    registry.register(other.id, trained(3))
    assert registry.cancel(sweep.id) == 2
    assert (registry.counts(sweep.id).cancelled, registry.counts(other.id).queued) == (2, 3)
    assert registry.cancel(other.id) == 3
    agent = registry.enlist(agent_info())
    assert registry.next_cohort(agent) is None
    registry.reactivate(other.id)
    assert len(claim(registry, agent)) == 3


def test_a_running_job_that_no_sweep_wants_is_named_to_its_agent_and_ends_cancelled(
    registry: Registry, sweep: Sweep
) -> None:
    other = other_sweep(registry)
    registry.register(sweep.id, trained(2))
    registry.register(other.id, trained(1))
    agent = registry.enlist(agent_info())
    claims = {one.job_id: one for one in claim(registry, agent)}
    assert registry.beat(agent) == frozenset()
    registry.cancel(sweep.id)
    unwanted = registry.beat(agent)
    assert len(unwanted) == 1
    registry.release(agent, [claims[one] for one in unwanted])
    assert registry.counts(sweep.id).cancelled == 1
    assert registry.counts(other.id).running == 1


def test_a_paused_sweep_keeps_its_jobs_queued_and_lets_running_ones_go_on(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    agent = registry.enlist(agent_info())
    one = claim(registry, agent, 1)[0]
    registry.pause_for([one], "the disk is full")
    found = registry.find_sweep("grid")
    assert (found.state, found.reason) == (SweepState.PAUSED, "the disk is full")
    assert registry.next_cohort(agent) is None
    assert registry.beat(agent) == frozenset()
    registry.release(agent, [one])
    assert registry.counts(sweep.id).queued == 2


def test_registering_into_an_active_sweep_wakes_what_another_cancelled(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(2))
    registry.cancel(sweep.id)
    registry.register(other_sweep(registry).id, trained(1))
    assert registry.counts(sweep.id).queued == 1


def test_one_sweep_that_keeps_models_is_enough(registry: Registry) -> None:
    scratch = registry.add_sweep(name="scratch", label="a", spec="{}", size=0, keep="none")
    registry.register(scratch.id, trained(2))
    registry.register(other_sweep(registry).id, trained(1))
    claims = claim(registry, registry.enlist(agent_info()))
    assert {one.job.training.recipe.seed: one.keep_model for one in claims} == {0: True, 1: False}


def child_of(parent: Job) -> Job:
    return replace(parent, kind=Kind.MEASURE, parent=parent.identity)


def test_a_child_is_claimable_once_its_parent_is_done_and_knows_its_model(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.register(sweep.id, [parent, child_of(parent)])
    agent = registry.enlist(agent_info())
    one = claim(registry, agent)[0]
    assert one.job == parent
    assert registry.next_cohort(agent) is None
    done = Finished(job_id=one.job_id, attempt=1, publication="p", model_file="m.pt", model_hash="abc")
    registry.finish(agent, [done])
    child = claim(registry, agent)[0]
    assert child.job.kind == Kind.MEASURE
    assert child.parent is not None
    assert (child.parent.identity, child.parent.model_file) == (parent.identity, "m.pt")


def test_a_child_registered_after_its_parent_is_done_is_claimable(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.register(sweep.id, [parent])
    agent = finish_all(registry)
    registry.register(sweep.id, [child_of(parent)])
    assert registry.next_cohort(agent) is not None


def test_a_child_registered_while_its_parent_finishes_is_claimable(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.register(sweep.id, [parent])
    agent = registry.enlist(agent_info())
    one = claim(registry, agent)[0]
    registered, over = threading.Event(), threading.Event()

    def register_and_wait(transaction: Transaction) -> None:
        _register(transaction, sweep.id, _rows([child_of(parent)]))
        registered.set()
        assert over.wait(30)

    def finish() -> None:
        registered.wait(30)
        registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(registry._database.write, register_and_wait), pool.submit(finish)]
        registered.wait(30)
        time.sleep(0.5)  # the finish waits for the lock on the parent
        assert not running[1].done()
        over.set()
        for each in running:
            each.result(30)
    assert registry.counts(sweep.id).done == 1
    assert [found.job.kind for found in claim(registry, agent)] == [Kind.MEASURE]


def test_a_child_without_its_parent_is_refused(registry: Registry, sweep: Sweep) -> None:
    with pytest.raises(InputError, match="is not registered"):
        registry.register(sweep.id, [child_of(trained(1)[0])])
    assert registry.counts(sweep.id).total == 0


def test_an_invalidation_supersedes_a_result_with_its_children_and_deletes_nothing(
    registry: Registry, sweep: Sweep
) -> None:
    parent, bystander = trained(2)
    registry.register(sweep.id, [parent, bystander, child_of(parent)])
    agent = finish_all(registry)
    row = registry.job(parent.identity)
    assert registry.invalidate([row.id], "wrong fingerprint") == 2
    assert [one.job for one in registry.committed(sweep.id)] == [bystander.identity]
    assert registry.attempts(row.id)[0].superseded == "wrong fingerprint"
    assert registry.attempts(row.id)[0].publication == f"p{agent}"
    again = claim(registry, agent)
    assert [(one.job, one.attempt) for one in again] == [(parent, 2)]


def test_the_zombie_of_an_invalidated_child_is_fenced_off(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.register(sweep.id, [parent, child_of(parent)])
    agent = registry.enlist(agent_info())
    one = claim(registry, agent)[0]
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])
    child = claim(registry, agent)[0]
    registry.invalidate([one.job_id], "reason")
    late = Finished(job_id=child.job_id, attempt=child.attempt, publication="q")
    assert registry.finish(agent, [late]).jobs == frozenset()
    assert registry.counts(sweep.id).queued == 2


def test_every_change_is_a_transition_and_leaves_one_event(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.register(sweep.id, trained(6))
    agent = registry.enlist(agent_info())
    registry.fail(agent, claim(registry, agent, 1), FailureClass.INPUT, "no")
    registry.release(agent, claim(registry, agent, 2))
    registry.cancel(sweep.id)
    registry.reactivate(sweep.id)
    registry.retry(sweep.id)
    for _ in range(3):
        registry.beat(agent)
    finish_all(registry)
    registry.invalidate([registry.jobs(sweep.id)[0].id], "again")
    events = registry.events()
    assert {(one.source, one.target) for one in events} <= TRANSITIONS
    stands = {one.job_id: one.target for one in events}
    assert stands == {row.id: row.state for row in registry.jobs(sweep.id)}
    assert registry.events(since=events[-3].id) == events[-2:]
    # 6 claims by finish_all, 1 + 2 before; each of those 3 ended; 5 cancelled, woken; 1 retried; 6 done; 1 again.
    assert len(events) == 9 + 3 + 5 + 5 + 1 + 6 + 1


def test_looking_changes_nothing(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.register(sweep.id, trained(3))
    agent = registry.enlist(agent_info())
    claim(registry, agent, 2)
    execute("UPDATE agents SET expires = expires - 1000")
    tables = ("sweeps", "jobs", "sweep_jobs", "agents", "attempts", "events", "checkpoints", "calibrations")
    before = [execute(f"SELECT * FROM {table}") for table in tables]
    assert registry.counts(sweep.id).running == 2
    assert [one.expired for one in registry.agents()] == [True]
    row = registry.jobs(sweep.id)[0]
    registry.sweeps(), registry.find_sweep("grid"), registry.job(row.identity), registry.attempts(row.id)
    registry.events(), registry.committed(sweep.id), registry.checkpoint_files(), registry.publications()
    registry.remaining(), registry.remaining(Scope(sweep=sweep.id))
    assert before == [execute(f"SELECT * FROM {table}") for table in tables]


def test_looking_waits_for_no_writer(registry: Registry, sweep: Sweep, url: str) -> None:
    registry.register(sweep.id, trained(3))
    with Registry.open(url) as other:
        taken: list[float] = []

        def hold(transaction: Any) -> None:
            transaction.run(sa.text("UPDATE jobs SET progress = 7"))
            started = time.monotonic()
            assert other.counts(sweep.id).queued == 3
            assert [row.progress for row in other.jobs(sweep.id)] == [0, 0, 0]
            taken.append(time.monotonic() - started)

        registry._database.write(hold)
    assert taken[0] < 1.0


def test_a_calibration_is_fixed_by_the_first_who_makes_it(registry: Registry) -> None:
    key = {"shape": "k", "device": "cpu", "build": "1"}
    assert registry.find_calibration(**key) is None
    assert registry.calibration(**key, slots=16, form="loop").slots == 16
    assert registry.calibration(**key, slots=4, form="grouped") == registry.find_calibration(**key)
    assert registry.calibration(**key, slots=4, form="grouped").form == "loop"


def test_a_calibration_is_measured_again_only_while_nothing_runs(registry: Registry, sweep: Sweep) -> None:
    key = {"shape": "k", "device": "cpu", "build": "1"}
    measured = Calibration(slots=4, form="blocks", seconds=0.5, peak=10**9)
    registry.calibration(**key, slots=16, form="loop")
    assert registry.recalibrate(**key, found=measured) == measured
    assert registry.find_calibration(**key) == measured
    assert registry.calibration(**key, slots=16, form="loop") == measured
    assert registry.calibrations_of(["k"])[0].peak == 10**9
    registry.register(sweep.id, trained(1))
    claim(registry, registry.enlist(agent_info()))
    with pytest.raises(InputError, match="jobs are running"):
        registry.recalibrate(**key, found=Calibration(slots=1, form="loop"))
    assert registry.find_calibration(**key) == measured


def test_a_job_is_named_by_any_unambiguous_prefix(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(40))
    firsts = [row.identity[0] for row in registry.jobs(sweep.id)]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(InputError, match="more than one"):
        registry.job(twice)
    with pytest.raises(InputError, match="no job"):
        registry.job("f" * 32)
    with pytest.raises(InputError, match="is no job"):
        registry.job("' OR 1=1 --")
