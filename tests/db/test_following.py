"""Following a sweep by its events says what counting it anew says, whatever is done beside and in whatever order."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa

from qsweep.db.following import OPEN, SOONEST, Cursor, Follower
from qsweep.db.registry import Registry
from qsweep.db.rows import Change, Finished, Sweep
from qsweep.db.states import FailureClass, State
from tests.db.conftest import agent_info, claim, trained


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def same(follower: Follower, registry: Registry, sweep: Sweep, selection: int | None = None) -> None:
    """The follower knows without counting what a count finds."""
    found = registry.history.inventory(sweep.id, selection)
    assert follower.counts == found.counts
    assert {state: pytest.approx(work) for state, work in follower.work.items()} == found.work
    held: dict[int, int] = {}
    for agent in found.holders.values():
        held[agent] = held.get(agent, 0) + 1
    assert follower.held == held


def finish(registry: Registry, agent: int, count: int, *, diverged: bool = False) -> None:
    held = claim(registry, agent, count)
    done = [Finished(job_id=one.job_id, attempt=one.attempt, publication="p", diverged=diverged) for one in held]
    registry.queue.finish(agent, done)


def test_a_thousand_changes_are_followed_without_a_count(registry: Registry, sweep: Sweep) -> None:
    other = registry.sweeps.add(name="other", label="b", spec="{}", size=0)
    registry.sweeps.register(sweep.id, trained(30))
    registry.sweeps.register(other.id, trained(30)[20:] + trained(10, depth=2))
    selection = registry.sweeps.select(trained(12))
    clock, dice = Clock(), random.Random(3)
    one, theirs = Follower(registry, sweep.id, clock=clock), Follower(registry, other.id, clock=clock)
    part = Follower(registry, sweep.id, selection, clock=clock)
    agents = [registry.agents.enlist(agent_info()) for _ in range(4)]
    seen: list[Change] = []
    for _ in range(40):
        number = dice.randrange(len(agents))
        match dice.randrange(5):
            case 0:
                claim(registry, agents[number], dice.randint(1, 4))
            case 1:
                finish(registry, agents[number], 2, diverged=dice.random() < 0.3)
            case 2:
                registry.queue.fail(agents[number], claim(registry, agents[number], 1), FailureClass.TIMEOUT, "slow")
            case 3:
                registry.agents.mark_dead(agents[number], FailureClass.LOST, "gone")
                agents[number] = registry.agents.enlist(agent_info())
            case 4:
                registry.sweeps.retry(sweep.id)
        seen += one.look()
        theirs.look()
        part.look()
        same(one, registry, sweep)
        same(theirs, registry, other)
        same(part, registry, sweep, selection)
    assert len(seen) > 40
    assert [change.id for change in seen] == sorted({change.id for change in seen})
    assert one.counts.diverged > 0
    assert one.look() == []


def test_what_no_event_tells_is_found_by_counting(registry: Registry, sweep: Sweep) -> None:
    clock = Clock()
    registry.sweeps.register(sweep.id, trained(4))
    follower = Follower(registry, sweep.id, clock=clock)
    registry.sweeps.register(sweep.id, trained(6))
    follower.look()
    assert follower.counts.total == 4
    clock.now += SOONEST
    follower.look()
    same(follower, registry, sweep)
    agent = registry.agents.enlist(agent_info())
    finish(registry, agent, 2, diverged=True)
    follower.look()
    registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(sweep.id, State.DONE)], "wrong")
    follower.look()
    same(follower, registry, sweep)


def test_jobs_that_leave_in_a_bundle_are_away(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(4))
    follower = Follower(registry, sweep.id, clock=Clock())
    holder = registry.agents.enlist(agent_info(backend="bundle"))
    registry.bundles.pack(holder, "b", [row.id for row in registry.catalogue.jobs(sweep.id)][:3])
    registry.bundles.send_away(holder, "b", "token")
    follower.look()
    same(follower, registry, sweep)
    assert follower.counts.away == 3


def test_an_event_that_is_committed_after_later_ones_is_not_missed(registry: Registry, sweep: Sweep, url: str) -> None:
    if "://" not in url:
        pytest.skip("SQLite has one writer: its events are committed in order")
    registry.sweeps.register(sweep.id, trained(4))
    agent = registry.agents.enlist(agent_info())
    first, second = (claim(registry, agent, 1)[0].job_id for _ in range(2))
    follower = Follower(registry, sweep.id, clock=Clock())
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    fail = sa.text(
        "WITH moved AS (UPDATE jobs SET state = 'failed' WHERE id = :job RETURNING id, attempt, agent_id) "
        "INSERT INTO events (job_id, at, source, target, agent_id, attempt, detail) "
        "SELECT id, 0, 'running', 'failed', agent_id, attempt, '' FROM moved"
    )
    with engine.connect() as slow, engine.connect() as fast:
        slow.execute(fail, {"job": first})
        fast.execute(fail, {"job": second})
        fast.commit()
        assert [change.job_id for change in follower.look()] == [second]
        joined_late = Follower(registry, sweep.id, clock=Clock())  # counts while the first is still open
        assert joined_late.counts.failed == 1
        slow.commit()
    for one in (follower, joined_late):
        assert [change.job_id for change in one.look()] == [first]
        same(one, registry, sweep)
        assert one.look() == []
    engine.dispose()


def test_missing_numbers_are_asked_for_until_nobody_can_hold_them() -> None:
    clock = Clock()
    cursor = Cursor(10, (5, 6, 9, 10), clock)
    assert cursor.wanted() == [(7, 8), (11, None)]
    cursor.take([8, 13, 15])
    assert cursor.wanted() == [(7, 7), (11, 12), (14, 14), (16, None)]
    clock.now = OPEN - 1
    cursor.take([12, 20])
    assert cursor.wanted() == [(7, 7), (11, 11), (14, 14), (16, 19), (21, None)]
    clock.now = OPEN
    assert cursor.wanted() == [(16, 19), (21, None)]
