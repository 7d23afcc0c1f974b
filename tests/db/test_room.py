"""What a lack of memory left on a job holds on the machines on which it happened, and on no other."""

from __future__ import annotations

import pytest

from qsweep.db.registry import Registry
from qsweep.db.rows import Claim, Sweep
from qsweep.db.states import FailureClass
from tests.db.conftest import agent_info, claim, trained

SLOTS = 8


@pytest.fixture
def weak(registry: Registry, sweep: Sweep) -> int:
    registry.sweeps.register(sweep.id, trained(4))
    return registry.agents.enlist(agent_info(host="weak"))


@pytest.fixture
def strong(registry: Registry, weak: int) -> int:
    return registry.agents.enlist(agent_info(host="strong"))


def lack_memory(registry: Registry, agent: int, claims: list[Claim], slots: int = SLOTS) -> None:
    registry.queue.fail(agent, claims, FailureClass.MEMORY, "no room", slots=slots)


def limits(claims: list[Claim]) -> list[tuple[bool, int | None]]:
    return [(one.alone, one.slots_limit) for one in claims]


@pytest.mark.parametrize("slots", [SLOTS, 1])
def test_another_machine_takes_the_jobs_as_if_it_had_not_happened(
    registry: Registry, weak: int, strong: int, slots: int
) -> None:
    """With several slots they would have fewer, with one each would run alone."""
    lack_memory(registry, weak, claim(registry, weak), slots)
    assert limits(claim(registry, strong)) == [(False, None)] * 4


def test_the_machine_itself_keeps_the_limit_also_with_another_agent(registry: Registry, weak: int) -> None:
    lack_memory(registry, weak, claim(registry, weak))
    again = registry.agents.enlist(agent_info(host="weak", pid=2))
    assert limits(claim(registry, again)) == [(False, SLOTS // 2)] * 4


def test_each_machine_forgets_once_and_the_tries_alone_count_on(registry: Registry, weak: int, strong: int) -> None:
    lack_memory(registry, weak, claim(registry, weak))
    lack_memory(registry, strong, claim(registry, strong), slots=2)
    for agent in (weak, strong):
        held = claim(registry, agent)
        assert limits(held) == [(False, 1)]
        registry.queue.release(agent, held)


def test_who_crashed_in_company_stays_alone_but_not_with_fewer_slots(
    registry: Registry, weak: int, strong: int
) -> None:
    registry.queue.fail(weak, claim(registry, weak), FailureClass.CRASH, "killed")
    for _ in range(4):
        lack_memory(registry, weak, claim(registry, weak), slots=2)
    assert limits(claim(registry, strong)) == [(True, None)]


def test_jobs_that_are_running_keep_what_they_have(registry: Registry, sweep: Sweep, weak: int, strong: int) -> None:
    lack_memory(registry, weak, claim(registry, weak))
    held = {one.job_id for one in claim(registry, weak, 2)}
    assert limits(claim(registry, strong)) == [(False, None)] * 2
    kept = {row.slots_limit for row in registry.catalogue.jobs(sweep.id) if row.id in held}
    assert kept == {SLOTS // 2}
