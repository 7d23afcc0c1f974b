"""Kinds that the registry has never heard of, four generations deep: every law holds for them as for measures."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest

from qsweep.db.looking import BUNDLE
from qsweep.db.registry import Registry
from qsweep.db.rows import Claim, Committed, Finished, Sweep
from qsweep.db.states import FailureClass, Obstacle, State
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import DISTORTION, TRAIN, File
from qsweep.sweeps.spec import select
from tests.db.conftest import agent_info, claim, trained
from tests.made_kinds import SKETCH, TRACE, chain_on, register_kinds

GENERATIONS = (TRAIN, DISTORTION, SKETCH, TRACE)


@pytest.fixture(autouse=True)
def _made_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    register_kinds(monkeypatch)


def result(one: Claim) -> Finished:
    """Done, with a file if its kind leaves one."""
    name = f"{one.job.kind}-{one.attempt}" if one.job.kind.leaves else None
    return Finished(
        job_id=one.job_id,
        attempt=one.attempt,
        publication=f"{one.job.kind}-{one.attempt}",
        model_file=name,
        model_hash=name and f"hash of {name}",
    )


def work(registry: Registry, agent: int, until: Sequence[Job] = ()) -> list[Claim]:
    """Finish what can be claimed, job after job, up to the first of `until`, which stays claimed."""
    done: list[Claim] = []
    while claims := claim(registry, agent, 1):
        done += claims
        if claims[0].job in until:
            break
        assert registry.queue.finish(agent, [result(one) for one in claims]).jobs == {one.job_id for one in claims}
    return done


def states(registry: Registry, sweep: Sweep) -> list[tuple[str, State, bool]]:
    return [(row.kind, row.state, row.blocked) for row in registry.catalogue.jobs(sweep.id)]


@pytest.fixture
def chain() -> list[Job]:
    return chain_on(trained(1)[0])


def test_a_chain_is_claimed_one_after_the_other_each_with_the_files_above_it(
    registry: Registry, sweep: Sweep, chain: list[Job]
) -> None:
    registry.sweeps.register(sweep.id, chain)
    assert [one[2] for one in states(registry, sweep)] == [False, True, True, True]
    agent = registry.agents.enlist(agent_info())
    claims = work(registry, agent)
    assert [one.job for one in claims] == chain
    assert [[above.kind for above in one.ancestors()] for one in claims] == [
        [],
        ["train"],
        ["corrupt", "train"],
        ["sketch", "corrupt", "train"],
    ]
    files = [[above.model_file for file in one.job.kind.takes if (above := one.source(file))] for one in claims]
    assert files == [[], ["train-1"], ["train-1"], ["sketch-1", "train-1"]]
    assert {one[1:] for one in states(registry, sweep)} == {(State.DONE, False)}


def test_a_chain_is_known_again_from_what_is_stored(registry: Registry, sweep: Sweep, chain: list[Job]) -> None:
    registry.sweeps.register(sweep.id, chain)
    rows = registry.catalogue.jobs(sweep.id)
    assert [row.job for row in rows] == chain
    assert len({one.cohort_key for one in chain} | {one.shape for one in chain}) == 8
    for job in chain:
        row = registry.catalogue.job(job.identity[:12])
        assert (row.identity, row.kind, row.job.settings()) == (job.identity, job.kind.name, job.settings())
        assert pickle.loads(pickle.dumps(job)) == job
    view = registry.catalogue.view("jobs", sweep.id)
    assert view["parent"].to_pylist() == [None, *(one.identity for one in chain[:3])]
    agent = registry.agents.enlist(agent_info())
    work(registry, agent)
    expected = [
        Committed(job=one.identity, attempt=1, publication=f"{one.kind}-1", kind=kind)
        for one, kind in zip(chain, GENERATIONS, strict=True)
    ]
    assert registry.catalogue.committed(sweep.id) == expected
    assert [registry.results.committed_job(row.id)[0] for row in rows] == expected
    assert [one.kind for one in registry.history.done_after(sweep.id, 0, 10)] == [one.name for one in GENERATIONS]


def test_a_job_that_is_given_beside_its_ancestor_is_counted_once(
    registry: Registry, sweep: Sweep, chain: list[Job]
) -> None:
    registry.sweeps.register(sweep.id, chain)
    other = registry.sweeps.add(name="other", label="b", spec="{}", size=0)
    registry.sweeps.register(other.id, chain)
    work(registry, registry.agents.enlist(agent_info()))
    ids = [row.id for row in registry.catalogue.jobs(sweep.id)]
    assert registry.sweeps.sharing(ids, sweep.id) == {other.title: 4}
    assert registry.sweeps.invalidate(ids, "wrong") == 4
    assert [row.blocked for row in registry.catalogue.jobs(sweep.id)] == [False, True, True, True]


@pytest.mark.parametrize("generation", range(4))
def test_what_stands_on_an_invalidated_job_is_invalidated_and_done_again(
    registry: Registry, sweep: Sweep, chain: list[Job], generation: int
) -> None:
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    work(registry, agent)
    row = registry.catalogue.job(chain[generation].identity)
    assert registry.sweeps.invalidate([row.id], "wrong") == 4 - generation
    kept, gone = registry.catalogue.jobs(sweep.id)[:generation], registry.catalogue.jobs(sweep.id)[generation:]
    assert {one.state for one in kept} <= {State.DONE}
    assert [(one.state, one.blocked, one.model_file) for one in gone] == [
        (State.QUEUED, place > 0, None) for place in range(len(gone))
    ]
    assert all(registry.history.attempts(one.id)[0].superseded == "wrong" for one in gone)
    again = work(registry, agent)
    assert [(one.job, one.attempt) for one in again] == [(job, 2) for job in chain[generation:]]
    sources = [above.attempt for one in again for file in one.job.kind.takes if (above := one.source(file))]
    assert sources == {0: [2, 2, 2, 2], 1: [1, 1, 2, 1], 2: [1, 2, 1], 3: [1, 1]}[generation]


def test_an_invalidated_ancestor_takes_the_job_from_the_agent_that_runs_it(
    registry: Registry, sweep: Sweep, chain: list[Job]
) -> None:
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    (trace,) = work(registry, agent, until=[chain[3]])[-1:]
    registry.sweeps.invalidate([registry.catalogue.job(chain[0].identity).id], "wrong")
    assert registry.queue.finish(agent, [result(trace)]).jobs == frozenset()
    assert [one[1:] for one in states(registry, sweep)] == [(State.QUEUED, place > 0) for place in range(4)]


@pytest.mark.parametrize("generation", range(3))
def test_what_stands_on_a_failed_job_is_blocked_by_it_until_it_is_retried(
    registry: Registry, sweep: Sweep, chain: list[Job], generation: int
) -> None:
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    held = work(registry, agent, until=[chain[generation]])[-1:]
    registry.queue.fail(agent, held, FailureClass.INPUT, "wrong")
    (blocked,) = registry.sweeps.blocked(sweep.id)
    assert (blocked.jobs, blocked.parent) == (3 - generation, chain[generation].identity)
    assert (blocked.obstacle, blocked.failure_class) == (Obstacle.FAILED, FailureClass.INPUT)
    assert claim(registry, agent) == []
    retried = registry.sweeps.retry(sweep.id)
    assert (retried.queued, retried.trainings) == (1, 0)  # nothing above it is repeated, least what leaves no file
    assert registry.sweeps.blocked(sweep.id) == []
    assert [one.job for one in work(registry, agent)] == chain[generation:]


@pytest.mark.parametrize(("gone", "again"), [(0, [0, 1, 2, 3]), (2, [2, 3])])
def test_a_retry_repeats_what_left_the_file_that_is_gone_however_far_above(
    registry: Registry, sweep: Sweep, chain: list[Job], gone: int, again: list[int]
) -> None:
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    registry.queue.fail(
        agent, work(registry, agent, until=[chain[3]])[-1:], FailureClass.INPUT, "the file is not there"
    )
    retried = registry.sweeps.retry(sweep.id, gone={registry.catalogue.job(chain[gone].identity).id})
    assert (retried.queued, retried.trainings) == (1, 1)
    assert [one.job for one in work(registry, agent)] == [chain[place] for place in again]


def test_a_retry_repeats_a_training_whose_model_never_came(registry: Registry, sweep: Sweep, chain: list[Job]) -> None:
    """As one that was imported without its model."""
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    (training,) = claim(registry, agent, 1)
    registry.queue.finish(agent, [Finished(job_id=training.job_id, attempt=1, publication="train-1")])
    registry.queue.fail(agent, work(registry, agent, until=[chain[3]])[-1:], FailureClass.INPUT, "it was not kept")
    assert registry.sweeps.retry(sweep.id).trainings == 1
    assert [(one.job, one.attempt) for one in work(registry, agent)] == [(one, 2) for one in chain]


def test_a_job_may_be_added_below_one_that_leaves_no_file(registry: Registry, sweep: Sweep, chain: list[Job]) -> None:
    agent = registry.agents.enlist(agent_info())
    registry.sweeps.register(sweep.id, chain[:2])
    work(registry, agent)
    registry.sweeps.register(sweep.id, chain)
    assert [one[1] for one in states(registry, sweep)] == [State.DONE, State.DONE, State.QUEUED, State.QUEUED]
    assert [one.job for one in work(registry, agent)] == chain[2:]


def test_a_file_that_nobody_asked_for_is_made_again_when_something_takes_it(
    registry: Registry, chain: list[Job]
) -> None:
    few = registry.sweeps.add(name="few", label="a", spec="{}", size=3, keep="none")
    registry.sweeps.register(few.id, chain[:3])
    agent = registry.agents.enlist(agent_info())
    (sketch,) = work(registry, agent, until=[chain[2]])[-1:]
    assert not sketch.keep_model
    registry.queue.finish(agent, [Finished(job_id=sketch.job_id, attempt=1, publication="sketch-1", unkept=True)])
    registry.sweeps.register(few.id, chain)
    assert [(one.job, one.attempt) for one in work(registry, agent)] == [(chain[2], 2), (chain[3], 1)]


@pytest.mark.parametrize("done", range(4))
def test_a_bundle_takes_the_rest_of_a_chain_and_brings_it_back(
    registry: Registry, sweep: Sweep, chain: list[Job], done: int
) -> None:
    registry.sweeps.register(sweep.id, chain)
    agent = registry.agents.enlist(agent_info())
    if done:
        registry.queue.release(agent, work(registry, agent, until=[chain[done]])[-1:])
    waiting = [row.id for row in registry.catalogue.jobs(sweep.id, state=State.QUEUED)]
    holder = registry.agents.enlist(agent_info(backend=BUNDLE))
    claims = registry.bundles.pack(holder, "far", waiting)
    assert [one.job for one in claims] == chain[done:]
    assert [len(list(one.ancestors())) for one in claims] == list(range(done, 4))
    registry.bundles.send_away(holder, "far", "token")
    assert claim(registry, agent) == []
    assert registry.queue.finish(holder, [result(one) for one in claims]).jobs == {one.job_id for one in claims}
    assert {one[1:] for one in states(registry, sweep)} == {(State.DONE, False)}


def test_a_job_leaves_only_with_what_it_waits_for(registry: Registry, sweep: Sweep, chain: list[Job]) -> None:
    registry.sweeps.register(sweep.id, chain)
    ids = [row.id for row in registry.catalogue.jobs(sweep.id)]
    holder = registry.agents.enlist(agent_info(backend=BUNDLE))
    claims = registry.bundles.pack(holder, "far", [ids[0], ids[1], ids[3]])
    assert [one.job for one in claims] == chain[:2]
    registry.bundles.send_away(holder, "far", "token")
    assert [(one.jobs, one.obstacle) for one in registry.sweeps.blocked(sweep.id)] == [(2, Obstacle.AWAY)]
    assert registry.bundles.recall(holder) == 2
    agent = registry.agents.enlist(agent_info())
    assert [one.job for one in work(registry, agent)] == chain


def test_a_deleted_sweep_leaves_what_another_ones_jobs_stand_on(
    registry: Registry, sweep: Sweep, chain: list[Job]
) -> None:
    """Though the other one holds the last of the chain alone, as no launch registers it."""
    more = chain_on(chain[0], corruption="snow")
    registry.sweeps.register(sweep.id, [*chain, *more[1:]])
    other = registry.sweeps.add(name="other", label="b", spec="{}", size=1)
    registry.sweeps.register(other.id, chain[3:])
    work(registry, registry.agents.enlist(agent_info()))
    assert registry.sweeps.sharing([registry.catalogue.job(chain[0].identity).id], sweep.id) == {other.title: 1}
    found = registry.sweeps.delete(sweep.id)
    assert set(found.identities) == {one.identity for one in more[1:]}
    assert {registry.catalogue.job(one.identity).state for one in chain} == {State.DONE}
    assert {registry.catalogue.job(one.identity).state for one in more[1:]} == {State.CANCELLED}
    third = registry.sweeps.add(name="third", label="c", spec="{}", size=1)
    registry.sweeps.register(third.id, chain[:1])
    assert (
        registry.sweeps.delete(third.id).identities == ()
    )  # no sweep holds what is between it and the other one's trace
    assert {registry.catalogue.job(one.identity).state for one in chain} == {State.DONE}


def test_a_chosen_job_brings_everything_above_it_along(chain: list[Job]) -> None:
    others = chain_on(trained(2)[1], strokes=4)
    jobs = [*chain, *others]
    assert select(jobs, where="strokes == 4") == others[:3]
    assert select(jobs, where="scale == 2.0", limit=1) == chain


def test_a_kind_that_is_not_there_is_named(chain: list[Job]) -> None:
    with pytest.raises(InputError, match="jobs of the kind 'unheard' are unknown here; known: train, "):
        Job.from_json(chain[3].to_json().replace('"kind":"trace"', '"kind":"unheard"'))


def test_the_nearest_file_is_taken(registry: Registry, sweep: Sweep, chain: list[Job]) -> None:
    registry.sweeps.register(sweep.id, chain)
    (trace,) = work(registry, registry.agents.enlist(agent_info()), until=[chain[3]])[-1:]
    images, model = trace.source(File.IMAGES), trace.source(File.MODEL)
    assert images is not None
    assert model is not None
    assert (images.identity, images.model_hash) == (chain[2].identity, "hash of sketch-1")
    assert (model.identity, model.model_hash) == (chain[0].identity, "hash of train-1")
