"""The queue of a bundle keeps the registry's laws in two files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.errors import LeaseLost
from qsweep.db.home import Home
from qsweep.db.rows import Checkpoint, Claim, Finished
from qsweep.db.states import FailureClass, State
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from qsweep.sweeps.training import Training
from qsweep.workers.bundle.ledger import Ledger, read_ledger
from qsweep.workers.bundle.local_queue import LocalQueue
from qsweep.workers.bundle.manifest import FILE, Manifest, read_manifest
from qsweep.workers.bundle.progress import Pace

SETTINGS: dict[str, Any] = {
    "data": "digits", "model": "nin", "width": 2, "depth": 1, "optimizer": "sgd", "learning_rate": 0.1,
    "weight_decay": 0.0, "bits": 4, "epochs": 2, "batch_size": 64,
}  # fmt: skip


def jobs(count: int) -> list[Job]:
    return [Job(training=Training.from_settings(SETTINGS | {"seed": seed})) for seed in range(count)]


class Bundle:
    """A bundle's folder and, anew at each `open`, its queue."""

    def __init__(self, folder: Path, given: list[Job]) -> None:
        self.home = Home.at(folder)
        claims = tuple(Claim(job_id=place, job=job, attempt=3) for place, job in enumerate(given, 1))
        self.manifest = Manifest(
            token="t", name="far", title="grid@a", holder=7, code="c", packed_at=1.5, claims=claims, calibrations=()
        )
        (folder / FILE).write_text(self.manifest.to_json())
        self.now = 0.0
        self.queues: list[LocalQueue] = []

    def open(self) -> LocalQueue:
        queue = LocalQueue(self.home, self.manifest, clock=lambda: self.now)
        queue.enlist(1, ("fp32",))
        queue.enlist(2, ("fp32",))
        self.queues.append(queue)
        return queue


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[list[Job]], Bundle]]:
    """Makes a bundle of these jobs."""
    bundles: list[Bundle] = []

    def make(given: list[Job]) -> Bundle:
        bundles.append(Bundle(tmp_path, given))
        return bundles[-1]

    yield make
    for queue in (queue for bundle in bundles for queue in bundle.queues):
        queue.close()


@pytest.fixture
def bundle(made: Callable[[list[Job]], Bundle]) -> Bundle:
    return made(jobs(4))


def take(queue: LocalQueue, agent: int, limit: int = 9, sharers: int = 1) -> list[Claim]:
    head = queue.next_cohort(agent)
    return [] if head is None else queue.claim(agent, head, limit, sharers=sharers)


def finished(claims: list[Claim]) -> list[Finished]:
    return [Finished(job_id=one.job_id, attempt=one.attempt, publication=f"{one.job_id:06d}-ab") for one in claims]


def saved(claim: Claim, step: int) -> Checkpoint:
    return Checkpoint(job_id=claim.job_id, attempt=3, step=step, epoch=0, file=f"{step}.pt", checksum="c")


def states(queue: LocalQueue) -> list[State]:
    return [entry.state for entry in queue.entries.values()]


def test_a_manifest_reads_as_it_was_written(bundle: Bundle) -> None:
    assert read_manifest(bundle.home.root) == bundle.manifest


def test_no_job_is_handed_out_twice_and_only_its_agent_may_finish_it(bundle: Bundle) -> None:
    queue = bundle.open()
    first, second = take(queue, 1, sharers=2), take(queue, 2)
    assert [[one.job_id for one in some] for some in (first, second)] == [[1, 2], [3, 4]]
    assert queue.finish(2, finished(first)).jobs == frozenset()
    assert queue.finish(1, finished(first)).jobs == {1, 2}
    assert queue.finish(1, finished(first)).jobs == frozenset()
    assert states(queue) == [State.DONE, State.DONE, State.RUNNING, State.RUNNING]
    with pytest.raises(LeaseLost):
        queue.beat(3)


def test_the_next_run_finds_results_and_checkpoints_and_nothing_running(bundle: Bundle) -> None:
    queue = bundle.open()
    claims = take(queue, 1)
    queue.finish(1, finished(claims[:1]))
    for step in (10, 20, 30):
        old = queue.checkpointed(1, [saved(claims[1], step)]).deletable
    assert old == ("10.pt",)
    queue.close()
    again = bundle.open()
    assert states(again) == [State.DONE, State.QUEUED, State.QUEUED, State.QUEUED]
    (ahead, *_) = take(again, 1)
    assert (ahead.job_id, ahead.attempt, [one.step for one in ahead.checkpoints]) == (2, 3, [30, 20])


def test_a_dead_agents_jobs_run_again_by_the_registrys_budget(bundle: Bundle) -> None:
    queue = bundle.open()
    take(queue, 1)
    assert queue.mark_dead(1, FailureClass.CRASH, "killed", kind="exit -9") == 4
    for alone in range(3):
        head = queue.next_cohort(2)
        assert head is not None
        assert head.alone
        (claim,) = queue.claim(2, head, 9)
        queue.fail(2, [claim], FailureClass.CRASH, f"died alone, time {alone}")
    assert states(queue).count(State.FAILED) == 1
    queue.close()
    assert states(bundle.open()).count(State.FAILED) == 1


def test_one_of_two_agents_does_not_fail_a_job_by_itself(bundle: Bundle) -> None:
    queue = bundle.open()
    for agent in (1, 1, 1, 1, 2):
        assert states(queue).count(State.FAILED) == 0
        bundle.now += 60
        (claim,) = take(queue, agent, 1)
        queue.fail(agent, [claim], FailureClass.MEMORY, "out of memory", slots=1)
    assert states(queue).count(State.FAILED) == 1


def test_out_of_memory_halves_the_cohort_and_is_remembered(bundle: Bundle) -> None:
    queue = bundle.open()
    queue.fail(1, take(queue, 1), FailureClass.MEMORY, "out of memory", slots=4)
    queue.close()
    head = bundle.open().next_cohort(1)
    assert head is not None
    assert head.slots_limit == 2


def test_a_backoff_ends_and_a_full_disk_stops_everything(bundle: Bundle) -> None:
    queue = bundle.open()
    for _ in range(2):
        queue.release(1, take(queue, 1))
    assert queue.next_cohort(1) is None
    assert queue.remaining().delay == pytest.approx(1.0)
    bundle.now = 2.0
    claims = take(queue, 1)
    assert len(claims) == 4
    queue.release(1, claims)
    queue.pause_for(claims, "the disk is full")
    bundle.now = 60.0
    assert queue.next_cohort(1) is None
    assert queue.remaining().nothing


def test_a_child_waits_for_the_parent_that_came_along(made: Callable[[list[Job]], Bundle]) -> None:
    (parent,) = jobs(1)
    child = Job(training=parent.training, kind=FLATNESS, parent=parent.identity, measure=PacBayes())
    queue = made([parent, child]).open()
    claims = take(queue, 1)
    assert [one.job_id for one in claims] == [1]
    assert queue.next_cohort(2) is None
    queue.finish(1, [Finished(job_id=1, attempt=3, publication="1-a", model_file="m.pt", model_hash="h")])
    (measure,) = take(queue, 2)
    assert measure.parent is not None
    assert (measure.parent.attempt, measure.parent.model_file) == (3, "m.pt")


def test_slots_and_form_are_fixed_at_the_first_use(bundle: Bundle) -> None:
    queue = bundle.open()
    key = {"shape": "s", "device": "d", "build": "b"}
    assert queue.calibration(**key, slots=12, form="gather").slots == 12
    assert queue.calibration(**key, slots=4, form="gather").slots == 12
    queue.close()
    assert bundle.open().calibration(**key, slots=4, form="gather").slots == 12


def test_a_device_without_the_precision_gets_no_job(bundle: Bundle) -> None:
    queue = bundle.open()
    queue.enlist(3, ("bf16",))
    assert queue.next_cohort(3) is None


@pytest.mark.parametrize("cut", [1, 30, 70])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path, "seed")
    for number in range(3):
        ledger.append({"number": number})
    ledger.close()
    os.truncate(path, path.stat().st_size - cut)
    assert read_ledger(path, "seed") == [{"number": 0}, {"number": 1}]
    again = Ledger(path, "seed")
    again.append({"number": 9})
    again.close()
    assert [one["number"] for one in read_ledger(path, "seed")] == [0, 1, 9]


@pytest.mark.parametrize("damage", ["change", "leave out", "swap"])
def test_an_altered_line_is_refused_with_its_number(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path, "seed")
    for number in range(4):
        ledger.append({"number": number})
    ledger.close()
    lines = path.read_text().splitlines(keepends=True)
    if damage == "change":
        lines[1] = lines[1].replace(json.dumps(1), "7")
    elif damage == "leave out":
        del lines[1]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    path.write_text("".join(lines))
    with pytest.raises(InputError, match="line 2 was altered"):
        read_ledger(path, "seed")
    with pytest.raises(InputError, match="line 1 was altered"):
        read_ledger(path, "of another bundle")


def test_a_desk_of_another_bundle_refuses_the_ledger(bundle: Bundle, tmp_path: Path) -> None:
    queue = bundle.open()
    queue.began({"host": "far"})
    queue.close()
    other = tmp_path / "other"
    other.mkdir()
    stranger = Bundle(other, jobs(2))
    shutil.copy(tmp_path / "ledger.jsonl", other)
    with pytest.raises(InputError, match="another bundle"):
        stranger.open()


def test_a_bundle_says_how_far_it_is_as_a_launch_does(bundle: Bundle) -> None:
    queue = bundle.open()
    pace = Pace(queue)
    assert pace.progress().share == 0
    held = take(queue, 1, 2)
    note = {"cohort": held[0].job.cohort_key, "jobs": 2, "step": 3, "steps": 4}
    queue.beat(1, json.dumps(note))
    assert pace.progress().share == pytest.approx(2 * 0.75 / 4)
    queue.finish(1, finished(held))
    queue.beat(1, "")
    progress = pace.progress()
    assert progress.share == pytest.approx(0.5)
    assert progress.line().startswith("2/4 done, 0 running, 2 queued, 0 failed · ")
    assert progress.seconds_left is not None
