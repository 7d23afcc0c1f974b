"""Law 1: at most one live lease a job; and which job comes next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from qsweep.db.errors import LeaseLost
from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint, Finished, Scope, Sweep
from qsweep.db.states import FailureClass, State
from tests.apart import APART
from tests.db.conftest import agent_info, claim, trained


def test_a_claimed_job_is_not_claimed_again(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    first, second = (registry.agents.enlist(agent_info()) for _ in range(2))
    head = registry.queue.next_cohort(second)
    assert head is not None
    assert len(registry.queue.claim(first, head, 16)) == 3
    assert registry.queue.claim(second, head, 16) == []
    assert registry.queue.next_cohort(second) is None


def test_a_claim_takes_no_more_than_its_limit_and_one_cohort_only(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(5) + trained(5, depth=2))
    agent = registry.agents.enlist(agent_info())
    claims = claim(registry, agent, 3)
    assert len(claims) == 3
    assert len({one.job.cohort_key for one in claims}) == 1


def test_jobs_that_are_shared_out_leave_some_for_each_agent(registry: Registry, sweep: Sweep) -> None:
    """Each takes its part of all that is claimable, of the scope, up to its limit."""
    registry.sweeps.register(sweep.id, trained(5) + trained(2, depth=2))
    agents = [registry.agents.enlist(agent_info()) for _ in range(3)]

    def taken(agent: int, limit: int) -> int:
        head = registry.queue.next_cohort(agent)
        assert head is not None
        return len(registry.queue.claim(agent, head, limit, Scope(sweep=sweep.id), sharers=3))

    assert taken(agents[0], 16) == 2  # the whole cohort of larger models, and not three of seven
    assert [taken(agent, 16) for agent in agents] == [2, 1, 1]
    assert taken(agents[0], 16) == 1


def test_the_most_expensive_cohort_comes_first(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(1) + trained(1, depth=3) + trained(1, depth=2))
    agent = registry.agents.enlist(agent_info())
    assert [claim(registry, agent)[0].job.training.model.depth for _ in range(3)] == [3, 2, 1]


def test_within_a_cohort_the_furthest_job_comes_first_with_its_checkpoints_newest_first(
    registry: Registry, sweep: Sweep
) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    agent = registry.agents.enlist(agent_info())
    last = claim(registry, agent)[2]
    for step in (10, 20, 30):
        registry.queue.checkpointed(agent, [saved(last, step)])
    registry.agents.retire(agent)
    claims = claim(registry, registry.agents.enlist(agent_info()))
    assert [one.job_id for one in claims] == [
        last.job_id,
        *sorted({one.job_id for one in claims} - {last.job_id}),
    ]
    assert [one.step for one in claims[0].checkpoints] == [30, 20]


def saved(one: Any, step: int) -> Checkpoint:
    file = f"{one.job_id}-{one.attempt}-{step}"
    return Checkpoint(job_id=one.job_id, attempt=one.attempt, step=step, epoch=1, file=file, checksum="0")


def test_an_agent_claims_only_what_its_device_can_compute(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    assert registry.queue.next_cohort(registry.agents.enlist(agent_info(precisions=("bf16",)))) is None
    assert registry.queue.next_cohort(registry.agents.enlist(agent_info(precisions=("bf16", "fp32")))) is not None


def test_an_agent_of_one_sweep_leaves_the_jobs_of_others_alone(registry: Registry, sweep: Sweep) -> None:
    other = registry.sweeps.add(name="grid", label="b", spec="{}", size=0)
    registry.sweeps.register(sweep.id, trained(2, depth=3) + trained(2))
    registry.sweeps.register(other.id, trained(4))
    agent = registry.agents.enlist(agent_info())
    claims = []
    while head := registry.queue.next_cohort(agent, Scope(sweep=other.id)):
        claims += registry.queue.claim(agent, head, 16, Scope(sweep=other.id))
    assert {one.job.identity for one in claims} == {job.identity for job in trained(4)}
    assert registry.catalogue.counts(sweep.id).queued == 2


def test_the_head_of_a_sweep_does_not_depend_on_who_registered_the_job(registry: Registry, sweep: Sweep) -> None:
    other = registry.sweeps.add(name="grid", label="b", spec="{}", size=0)
    registry.sweeps.register(sweep.id, trained(1, depth=3))
    registry.sweeps.register(other.id, trained(1, depth=3) + trained(1, depth=2))
    agent = registry.agents.enlist(agent_info())
    head = registry.queue.next_cohort(agent, Scope(sweep=other.id))
    assert head is not None
    assert head.job.training.model.depth == 3


def test_a_claim_repeated_after_a_lost_answer_returns_the_same_jobs(
    registry: Registry, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.sweeps.register(sweep.id, trained(6))
    agent = registry.agents.enlist(agent_info())
    head = registry.queue.next_cohort(agent)
    assert head is not None
    lose_next_answer(registry, monkeypatch)
    claims = registry.queue.claim(agent, head, 2)
    assert len(claims) == 2
    assert registry.catalogue.counts(sweep.id).running == 2


def lose_next_answer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction is committed, but its caller sees the connection break."""
    database = registry._database
    once, lost = database._once, []

    def lossy(*arguments: Any) -> Any:
        answer = once(*arguments)
        if not lost:
            lost.append(answer)
            error = database._driver_error("connection lost")
            error.sqlite_errorcode, error.sqlstate = 5, "08006"  # type: ignore[attr-defined]
            raise error
        return answer

    monkeypatch.setattr(database, "_once", lossy)


def test_a_finish_repeated_after_a_lost_answer_is_still_accepted(
    registry: Registry, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    lose_next_answer(registry, monkeypatch)
    accepted = registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])
    assert accepted.jobs == {one.job_id}
    assert [event.target for event in registry.history.events(one.job_id)] == [State.RUNNING, State.DONE]


def test_an_agent_that_counts_as_dead_can_neither_claim_nor_beat(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    head = registry.queue.next_cohort(agent)
    assert head is not None
    registry.agents.mark_dead(agent, FailureClass.CRASH, "killed")
    for act in (
        lambda: registry.queue.claim(agent, head, 1),
        lambda: registry.queue.beat(agent),
        lambda: registry.queue.next_cohort(agent),
    ):
        with pytest.raises(LeaseLost):
            act()
    assert registry.catalogue.counts(sweep.id).queued == 1


def work_until_nothing_is_left(url: str, seed: int, answers: Any) -> None:
    """One process that claims, then finishes, releases or fails, and says what it finished."""
    chance, finished = random.Random(seed), []
    with Registry.open(url) as registry:
        agent = registry.agents.enlist(agent_info(pid=seed))
        while head := registry.queue.next_cohort(agent):
            claims = registry.queue.claim(agent, head, chance.randint(1, 5))
            for one in claims:
                if chance.random() < 0.2:
                    registry.queue.fail(agent, [one], FailureClass.MEMORY, "too much", slots=64)
                    continue
                done = Finished(job_id=one.job_id, attempt=one.attempt, publication=f"p{seed}")
                finished += [(job, one.attempt) for job in registry.queue.finish(agent, [done]).jobs]
    answers.put(finished)


def test_processes_that_race_never_share_a_job(
    url: str, registry: Registry, sweep: Sweep, execute: Callable[[str], list[Any]]
) -> None:
    registry.sweeps.register(sweep.id, trained(120))
    answers = APART.Queue()
    processes = [APART.Process(target=work_until_nothing_is_left, args=(url, seed, answers)) for seed in range(4)]
    for process in processes:
        process.start()
    finished = [one for _ in processes for one in answers.get(timeout=300)]
    for process in processes:
        process.join(timeout=300)
    assert registry.catalogue.counts(sweep.id).done == 120
    assert Counter(job for job, _ in finished).most_common(1)[0][1] == 1
    assert len(finished) == 120
    assert_one_lease_at_a_time(registry)


def assert_one_lease_at_a_time(registry: Registry) -> None:
    """Each job's events, in order, are a path through the states, each claim a new attempt."""
    stands: dict[int, tuple[State, int]] = {}
    for event in registry.history.events():
        state, attempt = stands.get(event.job_id, (State.QUEUED, 0))
        assert event.source == state, event
        assert event.attempt == (attempt + 1 if event.target == State.RUNNING else attempt), event
        stands[event.job_id] = (event.target, event.attempt)
