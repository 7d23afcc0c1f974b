"""The epochs of trainings that are not done: as of their checkpoints, fenced, and gone when the result counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint, Claim, Finished, Sweep
from qsweep.db.states import FailureClass
from tests.db.conftest import agent_info, claim, trained


def epochs(count: int) -> list[dict[str, Any]]:
    return [{"epoch": one + 1, "train_loss": 1.0 / (one + 1)} for one in range(count)]


def saved(one: Claim, count: int) -> Checkpoint:
    step = count * one.job.training.steps_per_epoch
    file = f"{one.job.identity}/{one.attempt}-{step}.pt"
    return Checkpoint(
        job_id=one.job_id, attempt=one.attempt, step=step, epoch=count, file=file, checksum="c", curve=epochs(count)
    )


def told(registry: Registry, sweep: Sweep) -> dict[str, tuple[int, int]]:
    return {one.job: (one.attempt, len(one.epochs)) for one in registry.curves(sweep.id)}


def test_a_curve_comes_with_a_checkpoint_grows_with_the_next_and_goes_with_the_result(
    registry: Registry, sweep: Sweep, execute: Callable[[str], list[Any]]
) -> None:
    registry.register(sweep.id, trained(2))
    agent = registry.enlist(agent_info())
    first, second = claim(registry, agent)
    registry.checkpointed(agent, [saved(first, 1), saved(second, 1)])
    registry.checkpointed(agent, [saved(first, 2)])
    assert told(registry, sweep) == {first.job.identity: (1, 2), second.job.identity: (1, 1)}
    assert registry.curves(sweep.id)[0].epochs == tuple(epochs(2))
    assert [one.job for one in registry.curve(second.job_id)] == [second.job.identity]
    registry.finish(agent, [Finished(job_id=first.job_id, attempt=1, publication="p")])
    assert told(registry, sweep) == {second.job.identity: (1, 1)}
    assert execute("SELECT count(*) FROM curves") == [(1,)]


def test_a_curve_passes_the_fence_or_not_at_all_and_outlives_its_attempt(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(1))
    outrun = registry.enlist(agent_info())
    (old,) = claim(registry, outrun)
    registry.checkpointed(outrun, [saved(old, 1)])
    registry.bury(outrun, FailureClass.CRASH, "gone")
    assert told(registry, sweep) == {old.job.identity: (1, 1)}
    agent = registry.enlist(agent_info())
    (new,) = claim(registry, agent)
    registry.checkpointed(outrun, [saved(old, 2)])
    assert told(registry, sweep) == {old.job.identity: (1, 1)}
    registry.checkpointed(agent, [saved(new, 2)])
    assert told(registry, sweep) == {old.job.identity: (2, 2)}


def test_invalidated_results_leave_no_curve(registry: Registry, sweep: Sweep) -> None:
    registry.register(sweep.id, trained(1))
    agent = registry.enlist(agent_info())
    (one,) = claim(registry, agent)
    registry.checkpointed(agent, [saved(one, 1)])
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=1, publication="p")])
    registry.invalidate([one.job_id], "wrong")
    assert told(registry, sweep) == {}
