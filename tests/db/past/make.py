"""Keeps a registry file of the present schema, with rows of every kind: to be run before a new migration is added.

    python tests/db/past/make.py

writes tests/db/past/REVISION.db, which `tests/db/test_past.py` upgrades from then on.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from qsweep.db.migrations import HEAD  # noqa: E402
from qsweep.db.registry import Registry  # noqa: E402
from qsweep.db.rows import Checkpoint, Claim, Finished, Load, Scope, Sweep  # noqa: E402
from qsweep.db.states import FailureClass  # noqa: E402
from qsweep.sweeps.job import Job  # noqa: E402
from qsweep.sweeps.kinds import FLATNESS  # noqa: E402
from qsweep.sweeps.measures import PacBayes  # noqa: E402
from tests.db.conftest import agent_info, trained  # noqa: E402


def fill(registry: Registry) -> None:
    """Rows in every table: jobs, agents, attempts and events in every state, a measure, a selection, a trial."""
    trainings = trained(6)
    child = Job(training=trainings[0].training, kind=FLATNESS, parent=trainings[0].identity, measure=PacBayes())
    grid = _sweep(registry, "grid", [*trainings, child])
    _sweep(registry, "part", trainings[:2])
    given_up = _sweep(registry, "given-up", trained(2, depth=2))
    waiting = _sweep(registry, "waiting", trained(1, depth=3))
    registry.sweeps.cancel(given_up.id)
    registry.sweeps.pause(waiting.id, "the disk is full")
    registry.sweeps.select(trainings[:3])
    registry.queue.calibration(shape="train/digits", device="cpu", build="test", slots=8, form="grouped")

    worker = registry.agents.enlist(agent_info(log="logs/agents/one.log"))
    done, diverged, preempted, failed, *_ = _claim(registry, worker, grid)
    _checkpoint(registry, worker, done, 20)
    _checkpoint(registry, worker, preempted, 40)
    registry.queue.finish(worker, [_finished(done), _finished(diverged, diverged=True)])
    registry.queue.release(worker, [preempted])
    registry.queue.fail(worker, [failed], FailureClass.TIMEOUT, "not done after 60 s")
    registry.agents.retire(worker)

    dead = registry.agents.enlist(agent_info(pid=2))
    _claim(registry, dead, grid)
    registry.agents.mark_dead(dead, FailureClass.CRASH, "the agent's process was killed by signal SIGKILL")
    registry.sweeps.reactivate(grid.id)

    alive = registry.agents.enlist(agent_info(pid=3))
    (running,) = _claim(registry, alive, grid, 1)
    _checkpoint(registry, alive, running, 60)
    registry.queue.beat(alive, '{"step": 61}', Load(at=1.0, processor=0.5, memory=1))

    tuner = registry.agents.enlist(agent_info(pid=4))
    (row,) = registry.catalogue.jobs(waiting.id)
    trial = registry.trials.claim(tuner, row.id)
    assert trial is not None
    registry.trials.report(tuner, trial, [{"epoch": 1, "val_loss": 2.0}])
    registry.trials.end(waiting.id, row.id, 1)
    registry.queue.fail(tuner, [trial], FailureClass.STOPPED, "at epoch 1")
    registry.agents.retire(tuner)


def _sweep(registry: Registry, name: str, jobs: list[Job]) -> Sweep:
    sweep = registry.sweeps.add(name=name, label="a", spec="{}", size=len(jobs), owner="me", code="0.1.0+abc")
    registry.sweeps.register(sweep.id, jobs)
    return sweep


def _claim(registry: Registry, agent: int, sweep: Sweep, most: int = 16) -> list[Claim]:
    head = registry.queue.next_cohort(agent, Scope(sweep=sweep.id))
    assert head is not None
    return registry.queue.claim(agent, head, most, Scope(sweep=sweep.id))


def _checkpoint(registry: Registry, agent: int, claim: Claim, step: int) -> None:
    file = f"{claim.job.identity}/{claim.attempt}-{step}.pt"
    record = Checkpoint(
        job_id=claim.job_id, attempt=claim.attempt, step=step, epoch=step // 20, file=file, checksum="c0ffee"
    )
    assert registry.queue.checkpointed(agent, [record]).jobs


def _finished(claim: Claim, *, diverged: bool = False) -> Finished:
    return Finished(
        job_id=claim.job_id, attempt=claim.attempt, publication="000001-feed", model_file="ab/model.pt",
        model_hash="beef", diverged=diverged,
    )  # fmt: skip


def main() -> None:
    target = Path(__file__).with_name(f"{HEAD}.db")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        with Registry.open(path, create=True) as registry:
            fill(registry)
        with sqlite3.connect(path) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        path.replace(target)
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
