"""What can't run as things stand is found, with its cause, at any depth; what still can is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qsweep.db.looking import BUNDLE
from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Sweep
from qsweep.db.states import FailureClass, Obstacle, State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from tests.db.conftest import agent_info, claim, trained


def children(parent: Job, count: int) -> list[Job]:
    measures = [PacBayes(measure_seed=seed) for seed in range(count)]
    return [Job(training=parent.training, kind=FLATNESS, parent=parent.identity, measure=one) for one in measures]


def found(registry: Registry, sweep: Sweep) -> dict[str, tuple[int, Obstacle]]:
    return {one.parent: (one.jobs, one.obstacle) for one in registry.blocked(sweep.id)}


def test_measures_of_a_failed_training_are_blocked_until_it_is_retried(registry: Registry, sweep: Sweep) -> None:
    failing, sound = trained(2)
    registry.register(sweep.id, [failing, sound, *children(failing, 3), *children(sound, 2)])
    assert found(registry, sweep) == {}
    agent = registry.enlist(agent_info())
    held = {one.job.identity: one for one in claim(registry, agent)}
    assert found(registry, sweep) == {}
    registry.fail(agent, [held[failing.identity]], FailureClass.INPUT, "wrong")
    assert found(registry, sweep) == {failing.identity: (3, Obstacle.FAILED)}
    assert registry.blocked(sweep.id)[0].failure_class is FailureClass.INPUT
    part = registry.select([failing, *children(failing, 1)])
    assert [one.jobs for one in registry.blocked(sweep.id, part)] == [1]
    registry.finish(agent, [Finished(job_id=held[sound.identity].job_id, attempt=1, publication="p")])
    assert found(registry, sweep) == {failing.identity: (3, Obstacle.FAILED)}
    registry.retry(sweep.id)
    assert found(registry, sweep) == {}


def test_measures_of_a_training_that_is_away_cancelled_or_paused_are_blocked(registry: Registry, sweep: Sweep) -> None:
    away, theirs = trained(2)
    other = registry.add_sweep(name="other", label="b", spec="{}", size=1)
    registry.register(other.id, [theirs])
    registry.register(sweep.id, [away, *children(away, 2), *children(theirs, 1)])
    (row,) = [one for one in registry.jobs(sweep.id) if one.identity == away.identity]
    holder = registry.enlist(agent_info(backend=BUNDLE))
    registry.pack(holder, "far", [row.id])
    registry.send_away(holder, "far", "token")
    assert found(registry, sweep) == {away.identity: (2, Obstacle.AWAY)}
    registry.pause(other.id, "full")
    assert found(registry, sweep)[theirs.identity] == (1, Obstacle.UNWANTED)
    registry.cancel(other.id)
    assert found(registry, sweep)[theirs.identity] == (1, Obstacle.CANCELLED)


def test_a_chain_is_blocked_at_its_root(registry: Registry, sweep: Sweep, execute: Callable[[str], list[Any]]) -> None:
    """No sweep file makes chains yet: the registry knows them."""
    (root,) = trained(1)
    first, second, third = children(root, 3)
    registry.register(sweep.id, [root, first, second, third])
    ids = {row.identity: row.id for row in registry.jobs(sweep.id)}
    for child, parent in ((second, first), (third, second)):
        execute(f"UPDATE jobs SET parent_id = {ids[parent.identity]} WHERE id = {ids[child.identity]}")
    assert found(registry, sweep) == {}
    agent = registry.enlist(agent_info())
    registry.fail(agent, claim(registry, agent), FailureClass.INPUT, "wrong")
    assert found(registry, sweep) == {root.identity: (3, Obstacle.FAILED)}
    assert registry.counts(sweep.id).queued == 3
    assert {row.state for row in registry.jobs(sweep.id)} == {State.FAILED, State.QUEUED}
