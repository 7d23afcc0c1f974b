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

from qsweep.db.audit import job_problems
from qsweep.db.naming import AmbiguousName
from qsweep.db.registration import _register, _rows
from qsweep.db.registry import Registry
from qsweep.db.rows import Calibration, Cancelled, Finished, Registered, Retried, Scope, Sweep
from qsweep.db.states import TRANSITIONS, FailureClass, State, SweepState
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.spec import Axis, Spec
from qsweep.sweeps.tuning import Mode, Tuning
from tests.db.conftest import SETTINGS, agent_info, claim, trained

Execute = Callable[[str], list[Any]]


def finish_all(registry: Registry) -> int:
    agent = registry.agents.enlist(agent_info())
    while claims := claim(registry, agent):
        registry.queue.finish(
            agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication=f"p{agent}") for c in claims]
        )
    return agent


def other_sweep(registry: Registry) -> Sweep:
    return registry.sweeps.add(name="other", label="b", spec="{}", size=0)


def spec(seeds: int, title: str = "", tuning: Tuning | None = None) -> str:
    """The specification of `trained(seeds)`."""
    axes = (Axis(name="seed", values=tuple(range(seeds))),)
    given = Spec(name="grid", title=title, fixed=tuple(SETTINGS.items()), axes=axes, tuning=tuning)
    return given.to_json()


def test_registering_the_same_jobs_again_adds_nothing(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    jobs = trained(5)
    assert registry.sweeps.register(sweep.id, jobs[:3]) == Registered(new=3, shared=0, known=0)
    assert registry.sweeps.register(sweep.id, jobs) == Registered(new=2, shared=0, known=3)
    before = execute("SELECT * FROM jobs"), execute("SELECT * FROM sweep_jobs")
    assert registry.sweeps.register(sweep.id, jobs + jobs[:1]) == Registered(new=0, shared=0, known=5)
    assert before == (execute("SELECT * FROM jobs"), execute("SELECT * FROM sweep_jobs"))


def test_a_job_of_two_sweeps_is_computed_once(registry: Registry, sweep: Sweep) -> None:
    other = other_sweep(registry)
    registry.sweeps.register(sweep.id, trained(3))
    finish_all(registry)
    assert registry.sweeps.register(other.id, trained(5)) == Registered(new=2, shared=3, known=0)
    assert (registry.catalogue.counts(other.id).done, registry.catalogue.counts(other.id).queued) == (3, 2)
    assert len(registry.catalogue.committed(other.id)) == 3


def test_registered_jobs_come_back_equal_and_in_order(registry: Registry, sweep: Sweep) -> None:
    jobs = trained(4, bits=2) + trained(3, depth=2)
    registry.sweeps.register(sweep.id, jobs)
    assert [row.job for row in registry.catalogue.jobs(sweep.id)] == jobs
    assert registry.catalogue.job(jobs[2].identity[:20]).job == jobs[2]


def test_more_jobs_than_a_chunk_are_registered_and_told_of(registry: Registry, sweep: Sweep, monkeypatch: Any) -> None:
    monkeypatch.setattr("qsweep.db.registration.CHUNK", 7)
    told: list[int] = []
    assert registry.sweeps.register(sweep.id, trained(30), told=told.append) == Registered(new=30, shared=0, known=0)
    assert told == [7, 14, 21, 28]
    assert [row.job for row in registry.catalogue.jobs(sweep.id)] == trained(30)


def test_a_variant_launched_again_is_the_same_with_its_newest_text(registry: Registry, sweep: Sweep) -> None:
    before = registry.sweeps.add(name="grid", label="b", spec=spec(1), size=1, owner="me", code="c1", keep="all")
    again = registry.sweeps.add(
        name="grid", label="b", spec=spec(1, title="x"), size=1, owner="you", code="c2", keep="none", seen_code="c1"
    )
    assert (again.id, again.code, again.spec) == (before.id, "c2", spec(1, title="x"))
    assert (again.owner, again.keep) == ("me", "all")
    assert len(registry.catalogue.sweeps()) == 2


def test_a_launch_with_other_jobs_or_another_tuning_under_one_name_is_refused(registry: Registry) -> None:
    before = registry.sweeps.add(name="grid", label="mine", spec=spec(1), size=1)
    for other in (spec(2), spec(1, tuning=Tuning(metric="val_loss", mode=Mode.MIN))):
        with pytest.raises(InputError, match="grid@mine names another variant already"):
            registry.sweeps.add(name="grid", label="mine", spec=other, size=2, keep="all")
    assert registry.catalogue.find_sweep("grid@mine") == before


def test_code_that_another_launch_has_chosen_meanwhile_is_not_replaced(registry: Registry) -> None:
    registry.sweeps.add(name="grid", label="mine", spec=spec(1), size=1, code="c1")
    with pytest.raises(InputError, match="just begun it with other code"):
        registry.sweeps.add(name="grid", label="mine", spec=spec(1), size=1, code="c2")
    registry.sweeps.add(name="grid", label="mine", spec=spec(1), size=1, code="c2", seen_code="c1")
    assert registry.catalogue.find_sweep("grid@mine").code == "c2"


def test_of_two_launches_at_once_with_one_name_one_is_refused_before_its_jobs(url: str) -> None:
    """A real race: both have looked before either wrote."""
    ready = threading.Barrier(2)

    def launch(seeds: int) -> str:
        with Registry.open(url) as registry:
            ready.wait()
            try:
                sweep = registry.sweeps.add(name="grid", label="mine", spec=spec(seeds), size=seeds)
            except InputError as error:
                return str(error)
            registry.sweeps.register(sweep.id, trained(seeds))
            return ""

    with ThreadPoolExecutor(2) as threads:
        said = list(threads.map(launch, (2, 3)))
    with Registry.open(url) as registry:
        sweep = registry.catalogue.find_sweep("grid@mine")
        assert sorted(map(bool, said)) == [False, True]
        assert len(registry.catalogue.jobs(sweep.id)) == sweep.size == len(Spec.from_json(sweep.spec, place="").jobs())


def test_a_training_whose_model_is_asked_for_meanwhile_is_finished_only_with_it(registry: Registry) -> None:
    parent, other = trained(2)
    scratch = registry.sweeps.add(name="scratch", label="a", spec="{}", size=2, keep="none")
    registry.sweeps.register(scratch.id, [parent, other])
    agent = registry.agents.enlist(agent_info())
    claims = claim(registry, agent)
    assert not any(one.keep_model for one in claims)
    asking = other_sweep(registry)
    registry.sweeps.register(asking.id, [parent, child_of(parent)])
    unkept = [Finished(job_id=one.job_id, attempt=one.attempt, publication="p", unkept=True) for one in claims]
    first = registry.queue.finish(agent, unkept)
    assert (len(first.jobs), len(first.asked)) == (1, 1)
    late = [replace(one, model_file="m", model_hash="h", unkept=False) for one in unkept if one.job_id in first.asked]
    assert registry.queue.finish(agent, late).jobs == first.asked
    (measure,) = claim(registry, agent)
    assert measure.parent is not None
    assert measure.parent.model_file == "m"


def test_a_retry_repeats_the_training_that_left_no_model_with_what_was_measured_of_it(registry: Registry) -> None:
    parent = trained(1)[0]
    sweep = other_sweep(registry)
    registry.sweeps.register(sweep.id, [parent, child_of(parent)])
    agent = registry.agents.enlist(agent_info())
    (training,) = claim(registry, agent)
    registry.queue.finish(agent, [Finished(job_id=training.job_id, attempt=training.attempt, publication="p")])
    registry.queue.fail(agent, claim(registry, agent), FailureClass.INPUT, "the model was not kept")
    assert registry.catalogue.counts(sweep.id).failed == 1
    assert registry.sweeps.retry(sweep.id) == Retried(queued=1, trainings=1)
    assert registry.catalogue.counts(sweep.id).queued == 2
    (again,) = claim(registry, agent)
    assert (again.job, again.keep_model) == (parent, True)
    kept = Finished(job_id=again.job_id, attempt=again.attempt, publication="q", model_file="m", model_hash="h")
    registry.queue.finish(agent, [kept])
    finish_all(registry)
    assert registry.catalogue.counts(sweep.id).done == 2
    assert registry.sweeps.retry(sweep.id) == Retried(queued=0)


def test_a_child_that_is_registered_as_its_parent_ends_without_a_model_has_it_repeated(registry: Registry) -> None:
    parent = trained(1)[0]
    scratch = registry.sweeps.add(name="scratch", label="a", spec="{}", size=1, keep="none")
    registry.sweeps.register(scratch.id, [parent])
    finish_all(registry)
    asking = other_sweep(registry)
    registry.sweeps.register(asking.id, [parent, child_of(parent)])
    assert registry.catalogue.counts(asking.id).queued == 2
    assert "its model is asked for" in registry.history.events(registry.catalogue.job(parent.identity).id)[-1].detail


def test_a_deleted_sweep_is_listed_nowhere_and_what_others_share_stays(registry: Registry, sweep: Sweep) -> None:
    jobs = trained(5)
    registry.sweeps.register(sweep.id, jobs)
    other = other_sweep(registry)
    registry.sweeps.register(other.id, jobs[:2])
    with pytest.raises(InputError, match="5 of its jobs wait or run; cancel it first"):
        registry.sweeps.delete(sweep.id)
    finish_all(registry)
    assert registry.sweeps.deletion(sweep).shared == {"other@b": 2}
    gone = registry.sweeps.delete(sweep.id)
    assert (gone.jobs, set(gone.identities)) == (3, {job.identity for job in jobs[2:]})
    assert [one.title for one in registry.catalogue.sweeps()] == ["other@b"]
    with pytest.raises(InputError, match="no sweep 'grid'"):
        registry.catalogue.find_sweep("grid")
    assert registry.catalogue.counts(other.id).done == 2
    lost = registry.catalogue.job(jobs[4].identity)
    assert (lost.state, lost.publication) == (State.CANCELLED, None)
    assert registry.history.attempts(lost.id)[0].superseded == "grid@a was deleted"
    assert not list(job_problems(lost, registry.history.events(lost.id), set()))


def test_a_deleted_name_is_free_and_its_jobs_are_computed_again(registry: Registry, sweep: Sweep) -> None:
    jobs = [*trained(3), child_of(trained(1)[0])]
    registry.sweeps.register(sweep.id, jobs)
    finish_all(registry)
    registry.sweeps.delete(sweep.id)
    again = registry.sweeps.add(name="grid", label="a", spec="{}", size=4)
    assert again.id != sweep.id
    assert registry.sweeps.register(again.id, jobs) == Registered(new=4, shared=0, known=0)
    assert registry.catalogue.counts(again.id).queued == 4
    finish_all(registry)
    assert registry.catalogue.counts(again.id).done == 4


def test_a_sweep_with_jobs_at_work_is_not_deleted_even_if_it_was_cancelled(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    agent = registry.agents.enlist(agent_info())
    claims = claim(registry, agent, 1)
    assert registry.sweeps.cancel(sweep.id) == Cancelled(queued=1, running=1)
    with pytest.raises(InputError, match="1 of its jobs still run"):
        registry.sweeps.delete(sweep.id)
    registry.queue.release(agent, claims)
    assert registry.sweeps.delete(sweep.id).jobs == 2


def test_a_bare_name_means_the_sweep_as_written_whatever_was_launched_since(registry: Registry, sweep: Sweep) -> None:
    assert registry.catalogue.find_sweep("grid").label == "a"  # the only one
    registry.sweeps.add(name="grid", label="b", spec="{}", size=0)
    with pytest.raises(AmbiguousName, match="launched in 2 variants, and never as written; name one: grid@b, grid@a"):
        registry.catalogue.find_sweep("grid")
    for label, written in (("c", True), ("b", False), ("d", False)):
        registry.sweeps.add(name="grid", label=label, spec="{}", size=0, written=written)
        assert registry.catalogue.find_sweep("grid").label == "c"
    registry.sweeps.add(name="grid", label="e", spec="{}", size=0, written=True)  # the file was edited
    registry.sweeps.add(name="grid", label="c", spec="{}", size=0)  # and the older one resumed
    assert registry.catalogue.find_sweep("grid").label == "e"
    assert registry.catalogue.find_sweep("grid@b").label == "b"
    with pytest.raises(InputError, match="did you mean 'grid"):
        registry.catalogue.find_sweep("gird")


def test_cancelling_leaves_the_jobs_of_other_sweeps_alone(registry: Registry, sweep: Sweep) -> None:
    other = other_sweep(registry)
    registry.sweeps.register(sweep.id, trained(5))
    registry.sweeps.register(other.id, trained(3))
    assert registry.sweeps.cancel(sweep.id) == Cancelled(queued=2, running=0)
    assert (registry.catalogue.counts(sweep.id).cancelled, registry.catalogue.counts(other.id).queued) == (2, 3)
    assert registry.sweeps.cancel(other.id) == Cancelled(queued=3, running=0)
    agent = registry.agents.enlist(agent_info())
    assert registry.queue.next_cohort(agent) is None
    registry.sweeps.reactivate(other.id)
    assert len(claim(registry, agent)) == 3


def test_a_sweep_that_is_over_cannot_be_cancelled_and_what_is_taken_back_of_it_is_claimed(
    registry: Registry, sweep: Sweep
) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    agent = registry.agents.enlist(agent_info())
    registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.INPUT, "no")
    finish_all(registry)
    assert registry.sweeps.cancel(sweep.id) == Cancelled(queued=0, running=0, over=True)
    assert registry.catalogue.find_sweep("grid").state is SweepState.ACTIVE
    registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(sweep.id, State.DONE)], "lost")
    assert len(claim(registry, agent)) == 2


def test_a_tuning_run_between_two_trials_can_be_cancelled(registry: Registry) -> None:
    tuning = Tuning(metric="test_loss", mode=Mode.MIN, samples=2, seed=0)
    tuned = registry.sweeps.add(name="grid", label="t", spec=spec(1, tuning=tuning), size=1)
    registry.sweeps.register(tuned.id, trained(1))
    finish_all(registry)
    assert not registry.sweeps.cancel(tuned.id).over
    assert registry.catalogue.find_sweep("grid@t").state is SweepState.CANCELLED


def test_a_retry_makes_a_cancelled_sweep_active_again_and_wakes_no_other_job(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    agent = registry.agents.enlist(agent_info())
    (failed,) = claim(registry, agent, 1)
    registry.queue.fail(agent, [failed], FailureClass.INPUT, "no")
    registry.sweeps.cancel(sweep.id)
    assert registry.sweeps.retry(sweep.id, failure_class=FailureClass.CRASH) == Retried(queued=0)
    assert registry.catalogue.find_sweep("grid").state is SweepState.CANCELLED
    assert registry.sweeps.retry(sweep.id) == Retried(queued=1)
    assert [one.job for one in claim(registry, agent)] == [failed.job]
    assert registry.catalogue.counts(sweep.id).cancelled == 3


def test_jobs_taken_back_into_a_cancelled_sweep_are_stranded_unless_another_sweep_holds_them(
    registry: Registry, sweep: Sweep
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    agent = registry.agents.enlist(agent_info())
    done = claim(registry, agent, 2)
    registry.queue.finish(agent, [Finished(job_id=c.job_id, attempt=c.attempt, publication="p") for c in done])
    other = other_sweep(registry)
    registry.sweeps.register(other.id, [done[0].job])
    registry.sweeps.cancel(sweep.id)
    assert registry.sweeps.stranded(sweep.id) == 0
    registry.sweeps.invalidate([one.job_id for one in done], "lost")
    assert registry.sweeps.stranded(sweep.id) == 1
    registry.sweeps.reactivate(sweep.id)
    assert registry.sweeps.stranded(sweep.id) == 0


def test_a_running_job_that_no_sweep_wants_is_named_to_its_agent_and_ends_cancelled(
    registry: Registry, sweep: Sweep
) -> None:
    other = other_sweep(registry)
    registry.sweeps.register(sweep.id, trained(2))
    registry.sweeps.register(other.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    claims = {one.job_id: one for one in claim(registry, agent)}
    assert registry.queue.beat(agent) == frozenset()
    registry.sweeps.cancel(sweep.id)
    unwanted = registry.queue.beat(agent)
    assert len(unwanted) == 1
    registry.queue.release(agent, [claims[one] for one in unwanted])
    assert registry.catalogue.counts(sweep.id).cancelled == 1
    assert registry.catalogue.counts(other.id).running == 1


def test_a_paused_sweep_keeps_its_jobs_queued_and_lets_running_ones_go_on(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent, 1)[0]
    registry.queue.pause_for([one], "the disk is full")
    found = registry.catalogue.find_sweep("grid")
    assert (found.state, found.reason) == (SweepState.PAUSED, "the disk is full")
    assert registry.queue.next_cohort(agent) is None
    assert registry.queue.beat(agent) == frozenset()
    registry.queue.release(agent, [one])
    assert registry.catalogue.counts(sweep.id).queued == 2


def test_registering_into_an_active_sweep_wakes_what_another_cancelled(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    registry.sweeps.cancel(sweep.id)
    registry.sweeps.register(other_sweep(registry).id, trained(1))
    assert registry.catalogue.counts(sweep.id).queued == 1


def test_one_sweep_that_keeps_models_is_enough(registry: Registry) -> None:
    scratch = registry.sweeps.add(name="scratch", label="a", spec="{}", size=0, keep="none")
    registry.sweeps.register(scratch.id, trained(2))
    registry.sweeps.register(other_sweep(registry).id, trained(1))
    claims = claim(registry, registry.agents.enlist(agent_info()))
    assert {one.job.training.recipe.seed: one.keep_model for one in claims} == {0: True, 1: False}


def child_of(parent: Job) -> Job:
    return replace(parent, kind=FLATNESS, parent=parent.identity)


def test_a_child_is_claimable_once_its_parent_is_done_and_knows_its_model(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.sweeps.register(sweep.id, [parent, child_of(parent)])
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    assert one.job == parent
    assert registry.queue.next_cohort(agent) is None
    done = Finished(job_id=one.job_id, attempt=1, publication="p", model_file="m.pt", model_hash="abc")
    registry.queue.finish(agent, [done])
    child = claim(registry, agent)[0]
    assert child.job.kind == FLATNESS
    assert child.parent is not None
    assert (child.parent.identity, child.parent.model_file) == (parent.identity, "m.pt")


def test_a_child_registered_after_its_parent_is_done_is_claimable(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.sweeps.register(sweep.id, [parent])
    agent = finish_all(registry)
    registry.sweeps.register(sweep.id, [child_of(parent)])
    assert registry.queue.next_cohort(agent) is not None


def test_a_child_registered_while_its_parent_finishes_is_claimable(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.sweeps.register(sweep.id, [parent])
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    registered, over = threading.Event(), threading.Event()

    def register_and_wait(transaction: Transaction) -> None:
        _register(transaction, sweep.id, _rows([child_of(parent)]))
        registered.set()
        assert over.wait(300)

    def finish() -> None:
        registered.wait(300)
        registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(registry._database.write, register_and_wait), pool.submit(finish)]
        registered.wait(300)
        time.sleep(0.5)  # the finish waits for the lock on the parent
        assert not running[1].done()
        over.set()
        for each in running:
            each.result(300)
    assert registry.catalogue.counts(sweep.id).done == 1
    assert [found.job.kind for found in claim(registry, agent)] == [FLATNESS]


def test_a_child_without_its_parent_is_refused(registry: Registry, sweep: Sweep) -> None:
    with pytest.raises(InputError, match="is not registered"):
        registry.sweeps.register(sweep.id, [child_of(trained(1)[0])])
    assert registry.catalogue.counts(sweep.id).total == 0


def test_an_invalidation_supersedes_a_result_with_its_children_and_deletes_nothing(
    registry: Registry, sweep: Sweep
) -> None:
    parent, bystander = trained(2)
    registry.sweeps.register(sweep.id, [parent, bystander, child_of(parent)])
    agent = finish_all(registry)
    row = registry.catalogue.job(parent.identity)
    assert registry.sweeps.invalidate([row.id], "wrong fingerprint") == 2
    assert [one.job for one in registry.catalogue.committed(sweep.id)] == [bystander.identity]
    assert registry.history.attempts(row.id)[0].superseded == "wrong fingerprint"
    assert registry.history.attempts(row.id)[0].publication == f"p{agent}"
    again = claim(registry, agent)
    assert [(one.job, one.attempt) for one in again] == [(parent, 2)]


def test_the_zombie_of_an_invalidated_child_is_fenced_off(registry: Registry, sweep: Sweep) -> None:
    parent = trained(1)[0]
    registry.sweeps.register(sweep.id, [parent, child_of(parent)])
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])
    child = claim(registry, agent)[0]
    registry.sweeps.invalidate([one.job_id], "reason")
    late = Finished(job_id=child.job_id, attempt=child.attempt, publication="q")
    assert registry.queue.finish(agent, [late]).jobs == frozenset()
    assert registry.catalogue.counts(sweep.id).queued == 2


def test_every_change_is_a_transition_and_leaves_one_event(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.sweeps.register(sweep.id, trained(6))
    agent = registry.agents.enlist(agent_info())
    registry.queue.fail(agent, claim(registry, agent, 1), FailureClass.INPUT, "no")
    registry.queue.release(agent, claim(registry, agent, 2))
    registry.sweeps.cancel(sweep.id)
    registry.sweeps.reactivate(sweep.id)
    registry.sweeps.retry(sweep.id)
    for _ in range(3):
        registry.queue.beat(agent)
    finish_all(registry)
    registry.sweeps.invalidate([registry.catalogue.jobs(sweep.id)[0].id], "again")
    events = registry.history.events()
    assert {(one.source, one.target) for one in events} <= TRANSITIONS
    stands = {one.job_id: one.target for one in events}
    assert stands == {row.id: row.state for row in registry.catalogue.jobs(sweep.id)}
    assert registry.history.events(since=events[-3].id) == events[-2:]
    # 6 claims by finish_all, 1 + 2 before; each of those 3 ended; 5 cancelled, woken; 1 retried; 6 done; 1 again.
    assert len(events) == 9 + 3 + 5 + 5 + 1 + 6 + 1


def test_looking_changes_nothing(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    agent = registry.agents.enlist(agent_info())
    claim(registry, agent, 2)
    execute("UPDATE agents SET expires = expires - 1000")
    tables = ("sweeps", "jobs", "sweep_jobs", "agents", "attempts", "events", "checkpoints", "calibrations")
    before = [execute(f"SELECT * FROM {table}") for table in tables]
    assert registry.catalogue.counts(sweep.id).running == 2
    assert [one.expired for one in registry.catalogue.agents()] == [True]
    row = registry.catalogue.jobs(sweep.id)[0]
    (
        registry.catalogue.sweeps(),
        registry.catalogue.find_sweep("grid"),
        registry.catalogue.job(row.identity),
        registry.history.attempts(row.id),
    )
    (
        registry.history.events(),
        registry.catalogue.committed(sweep.id),
        registry.results.checkpoint_files(),
        registry.catalogue.publications(),
    )
    registry.queue.remaining(), registry.queue.remaining(Scope(sweep=sweep.id))
    assert before == [execute(f"SELECT * FROM {table}") for table in tables]


def test_looking_waits_for_no_writer(registry: Registry, sweep: Sweep, url: str) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    with Registry.open(url) as other:
        looked: list[bool] = []

        def hold(transaction: Any) -> None:
            transaction.run(sa.text("UPDATE jobs SET progress = 7"))
            assert other.catalogue.counts(sweep.id).queued == 3
            assert [row.progress for row in other.catalogue.jobs(sweep.id)] == [0, 0, 0]
            looked.append(True)

        registry._database.write(hold)
    assert looked == [True]


def test_a_calibration_is_fixed_by_the_first_who_makes_it(registry: Registry) -> None:
    key = {"shape": "k", "device": "cpu", "build": "1"}
    assert registry.calibrations.find(**key) is None
    assert registry.queue.calibration(**key, slots=16, form="loop").slots == 16
    assert registry.queue.calibration(**key, slots=4, form="grouped") == registry.calibrations.find(**key)
    assert registry.queue.calibration(**key, slots=4, form="grouped").form == "loop"


def test_a_calibration_is_measured_again_only_while_nothing_runs(registry: Registry, sweep: Sweep) -> None:
    key = {"shape": "k", "device": "cpu", "build": "1"}
    measured = Calibration(slots=4, form="gather", seconds=0.5, peak=10**9)
    registry.queue.calibration(**key, slots=16, form="loop")
    assert registry.calibrations.replace(**key, found=measured) == measured
    assert registry.calibrations.find(**key) == measured
    assert registry.queue.calibration(**key, slots=16, form="loop") == measured
    assert registry.calibrations.of(["k"])[0].peak == 10**9
    registry.sweeps.register(sweep.id, trained(1))
    claim(registry, registry.agents.enlist(agent_info()))
    with pytest.raises(InputError, match="jobs are running"):
        registry.calibrations.replace(**key, found=Calibration(slots=1, form="loop"))
    assert registry.calibrations.find(**key) == measured


def test_a_job_is_named_by_any_unambiguous_prefix(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(40))
    firsts = [row.identity[0] for row in registry.catalogue.jobs(sweep.id)]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(InputError, match="more than one"):
        registry.catalogue.job(twice)
    with pytest.raises(InputError, match="no job"):
        registry.catalogue.job("f" * 32)
    with pytest.raises(InputError, match="is not a job"):
        registry.catalogue.job("' OR 1=1 --")


def test_a_sweep_that_is_launched_again_unchanged_has_only_a_new_time_of_launch(registry: Registry) -> None:
    known = registry.sweeps.add(name="one", label="a", spec="{}", size=0, code="1", written=False)
    later = other_sweep(registry)
    assert [one.id for one in registry.catalogue.sweeps()] == [later.id, known.id]
    again = registry.launches.again(known, written=True)
    assert again is not None
    assert again.launched_at > known.launched_at
    assert again.written_at is not None
    assert replace(again, launched_at=known.launched_at, written_at=None) == known
    assert [one.id for one in registry.catalogue.sweeps()] == [known.id, later.id]
    assert registry.catalogue.sweeps()[0] == again


def test_a_sweep_that_has_changed_since_it_was_looked_at_is_not_launched_again_as_it_was(registry: Registry) -> None:
    known = registry.sweeps.add(name="one", label="a", spec="{}", size=0, code="1")
    for stale in (replace(known, code="2"), replace(known, size=1), replace(known, keep="none")):
        assert registry.launches.again(stale, written=True) is None
    assert registry.catalogue.sweeps() == [known]
    registry.sweeps.delete(known.id)
    assert registry.launches.again(known, written=True) is None
    assert registry.catalogue.sweeps() == []
