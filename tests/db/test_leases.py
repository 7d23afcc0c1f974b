"""Laws 2 and 3: fencing, and the return of what dead agents held."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from qsweep.db.clock import boot_seconds
from qsweep.db.errors import LeaseLost
from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Sweep
from qsweep.db.states import AgentState, FailureClass, State
from tests.apart import APART
from tests.db.conftest import agent_info, claim, trained
from tests.db.test_claims import assert_one_lease_at_a_time, saved

Execute = Callable[[str], list[Any]]
LEASE_OVER = "UPDATE agents SET expires = expires - 1000 WHERE id = "


def result(one: Any, publication: str) -> Finished:
    return Finished(job_id=one.job_id, attempt=one.attempt, publication=publication)


def test_the_next_claim_takes_back_an_expired_lease_in_one_go(
    registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    dead, living = (registry.agents.enlist(agent_info()) for _ in range(2))
    held = claim(registry, dead, 3)
    execute(f"{LEASE_OVER}{dead}")
    claims = claim(registry, living)
    assert len(claims) == 4
    assert {one.attempt for one in claims if one.job_id in {old.job_id for old in held}} == {2}
    assert [one.state for one in registry.catalogue.agents(None)] == [AgentState.DEAD, AgentState.ALIVE]
    attempt = registry.history.attempts(held[0].job_id)[0]
    assert (attempt.outcome, attempt.failure_class) == (State.QUEUED, FailureClass.LOST)


def test_who_stands_still_in_its_own_claim_does_not_take_its_own_lease_back(registry: Registry, sweep: Sweep) -> None:
    """Or it would be dead and hold jobs that nobody takes back: it goes on, and who comes next finds its lease over."""
    registry.sweeps.register(sweep.id, trained(2))
    slow = registry.agents.enlist(agent_info(lease=-1.0))  # over at every look, as after a stop that outlasts it
    held = registry.queue.claim(slow, registry.queue.next_cohort(slow), 2)
    assert [(one.state, one.expired) for one in registry.catalogue.agents(None)] == [(AgentState.ALIVE, True)]
    assert registry.agents.take_back_expired() == 1
    assert {registry.catalogue.job(one.job.identity).state for one in held} == {State.QUEUED}


def test_a_heartbeat_keeps_the_lease(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info(lease=1000.0))
    claim(registry, agent)
    for _ in range(6):
        execute("UPDATE agents SET expires = expires - 600")  # so much time passes
        registry.queue.beat(agent, "step")
    assert registry.agents.take_back_expired() == 0
    execute("UPDATE agents SET expires = expires - 1001")
    assert registry.agents.take_back_expired() == 1


def test_a_lease_written_in_an_earlier_boot_is_over(
    registry: Registry, sweep: Sweep, execute: Execute, url: str
) -> None:
    if "://" in url:
        pytest.skip("the clock of Postgres goes on when its machine is started again")
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    claim(registry, agent)
    execute("UPDATE agents SET clock = 'an earlier boot', expires = expires + 1000000")
    assert registry.agents.take_back_expired() == 1


def test_a_zombie_changes_nothing(registry: Registry, sweep: Sweep, execute: Execute) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    zombie, heir = (registry.agents.enlist(agent_info()) for _ in range(2))
    old = claim(registry, zombie)[0]
    execute(f"{LEASE_OVER}{zombie}")
    new = claim(registry, heir)[0]
    before = (
        execute("SELECT * FROM jobs"),
        execute("SELECT * FROM events"),
        execute("SELECT * FROM checkpoints"),
    )
    assert registry.queue.finish(zombie, [result(old, "zombie")]).jobs == frozenset()
    assert registry.queue.checkpointed(zombie, [saved(old, 50)]).jobs == frozenset()
    assert registry.queue.release(zombie, [old]) == frozenset()
    assert registry.queue.fail(zombie, [old], FailureClass.CRASH, "boom") == frozenset()
    # With the heir's own attempt number it would still be the wrong agent.
    assert registry.queue.finish(zombie, [result(new, "zombie")]).jobs == frozenset()
    with pytest.raises(LeaseLost):
        registry.queue.beat(zombie)
    after = (
        execute("SELECT * FROM jobs"),
        execute("SELECT * FROM events"),
        execute("SELECT * FROM checkpoints"),
    )
    assert before == after
    assert registry.queue.finish(heir, [result(new, "heir")]).jobs == {new.job_id}
    assert [one.publication for one in registry.catalogue.committed(sweep.id)] == ["heir"]


def test_a_finish_commits_whichever_members_pass(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    agent = registry.agents.enlist(agent_info())
    claims = claim(registry, agent)
    registry.queue.release(agent, claims[:1])
    accepted = registry.queue.finish(agent, [result(one, "p") for one in claims])
    assert accepted.jobs == {one.job_id for one in claims[1:]}
    assert registry.catalogue.counts(sweep.id).done == 2


def test_a_second_result_of_a_done_job_is_refused(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    registry.queue.finish(agent, [result(one, "first")])
    assert registry.queue.finish(agent, [result(one, "second")]).jobs == frozenset()
    assert registry.catalogue.job(one.job.identity).publication == "first"


def test_a_checkpoint_keeps_the_last_two_and_names_the_files_that_fell_out(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(1))
    agent = registry.agents.enlist(agent_info())
    one = claim(registry, agent)[0]
    files = [registry.queue.checkpointed(agent, [saved(one, step)]).deletable for step in (1, 2, 3, 4)]
    assert files == [(), (), (saved(one, 1).file,), (saved(one, 2).file,)]
    assert registry.catalogue.job(one.job.identity).progress == 4
    assert registry.results.checkpoint_files() == {saved(one, 3).file, saved(one, 4).file}
    assert set(registry.queue.finish(agent, [result(one, "p")]).deletable) == {
        saved(one, 3).file,
        saved(one, 4).file,
    }
    assert registry.results.checkpoint_files() == set()


def test_a_launcher_takes_back_dead_processes_of_this_machine_and_leaves_all_others_to_their_lease(
    registry: Registry, sweep: Sweep
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    agents = [
        registry.agents.enlist(agent_info(pid=1)),
        registry.agents.enlist(agent_info(pid=2)),
        registry.agents.enlist(agent_info(pid=1, boot_id="earlier")),
        registry.agents.enlist(agent_info(pid=2, host="elsewhere")),
    ]
    for agent in agents:
        claim(registry, agent, 1)
    taken = registry.agents.mark_dead_processes(host="here", boot_id="boot", is_alive=lambda pid, started: pid == 1)
    assert taken == 1
    assert {one.id for one in registry.catalogue.agents()} == {agents[0], agents[2], agents[3]}
    assert registry.catalogue.counts(sweep.id).queued == 1


def test_a_retired_agent_leaves_its_jobs_to_others(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    agent = registry.agents.enlist(agent_info())
    claim(registry, agent)
    registry.agents.retire(agent)
    assert registry.catalogue.counts(sweep.id).queued == 2
    assert len(claim(registry, registry.agents.enlist(agent_info()))) == 2


def hold_a_claim(url: str, answers: Any) -> None:
    with Registry.open(url) as registry:
        agent = registry.agents.enlist(agent_info(pid=os.getpid(), lease=1.0))
        claims = claim(registry, agent, 2)
        answers.put([one.job_id for one in claims])
        while True:  # Claims and releases for ever, so that it is killed at any point of either.
            more = claim(registry, agent, 1)
            registry.queue.release(agent, more)


def test_jobs_of_a_killed_process_run_again_within_two_leases(
    url: str, registry: Registry, sweep: Sweep, execute: Execute
) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    answers = APART.Queue()
    process = APART.Process(target=hold_a_claim, args=(url, answers))
    process.start()
    held = set(answers.get(timeout=300))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    now = "extract(epoch from now())" if "://" in url else str(boot_seconds())
    ((left,),) = execute(f"SELECT max(expires) - {now} FROM agents")
    assert left <= 1.0
    process.join(timeout=300)
    agent = registry.agents.enlist(agent_info())
    claimed: set[int] = set()
    over = False
    while not over:
        over = all(one.expired for one in registry.catalogue.agents() if one.id != agent)
        registry.agents.take_back_expired()
        claimed |= {one.job_id for one in claim(registry, agent)}
        time.sleep(0.02)
    assert len(claimed) == 4
    assert held < claimed
    assert_one_lease_at_a_time(registry)
