"""Progress of a launch: plain lines that get rarer, and a time left that doesn't jump."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console

from qsweep.orchestrator.progress import Display, Progress, Rhythm
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job

ALL = read_sweep("digits-grid").jobs()
JOBS = [job for job in ALL if job.cohort_key == ALL[0].cohort_key]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def row(job: Job) -> dict[str, object]:
    return {"job": job.identity, "bits": 32, "diverged": True}


def note(jobs: int, step: int, steps: int = 100) -> str:
    return json.dumps({"cohort": JOBS[0].cohort_key, "jobs": jobs, "step": step, "steps": steps})


def test_the_time_left_does_not_jump_when_cohorts_end_together() -> None:
    clock = Clock()
    jobs = JOBS[:96]
    progress = Progress(jobs={job.identity: job for job in jobs}, clock=clock, running=24, queued=72)
    progress.mark_start()
    left = []
    for second in range(1, 331):  # two agents with cohorts of 12; a cohort takes 100 s
        clock.now = float(second)
        ended, step = divmod(second, 100)
        progress.add_notes(
            [(note(12, step), 12)] * 2 if step else [("", 12)] * 2
        )  # between two cohorts agents say nothing
        progress.add_results(row(job) for job in jobs[: 24 * ended])
        progress.look()
        if second > 20:
            left.append(progress.seconds_left)
    assert max(abs(before - 1 - after) for before, after in pairwise(left)) < 3
    assert abs(left[-1] - 70) < 2


def test_results_that_come_after_the_agents_note_is_gone_take_nothing_back() -> None:
    clock = Clock()
    progress = Progress(jobs={job.identity: job for job in JOBS[:24]}, clock=clock, running=12, queued=12)
    progress.mark_start()
    clock.now = 90.0
    progress.add_notes([(note(12, 90), 12)])
    progress.look()
    before = progress.seconds_left
    clock.now = 91.0
    progress.add_notes([("", 12)])
    progress.look()
    assert abs(progress.seconds_left - before) < 5
    assert progress.share >= 0.44


def test_nothing_is_said_of_the_time_left_before_anything_is_done() -> None:
    progress = Progress(jobs={job.identity: job for job in JOBS[:4]}, running=4)
    assert math.isnan(progress.seconds_left)
    assert progress.summary().endswith("time left: unknown")


def test_a_finished_sweep_is_complete() -> None:
    progress = Progress(jobs={job.identity: job for job in JOBS[:4]})
    progress.mark_start()
    progress.add_results(map(row, JOBS[:4]))
    progress.look()
    assert progress.summary().startswith("4/4 done")
    assert progress.summary().endswith("complete")


def test_lines_get_rarer_and_come_once_per_tenth() -> None:
    clock = Clock()
    rhythm = Rhythm(clock)
    said = []
    for second in range(4 * 3600):
        clock.now = float(second)
        if rhythm.is_due(0.0):
            said.append(second)
    pauses = [after - before for before, after in pairwise(said)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (15, 600)
    assert len(said) < 40
    tenths = [rhythm.is_due(share / 100) for share in range(101)]
    assert sum(tenths) == 10


def test_a_pipe_gets_few_lines() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=80)
    progress = Progress(jobs={job.identity: job for job in JOBS[:20]}, clock=clock, running=20)
    with Display(console, "made", Rhythm(clock)) as display:
        for second in range(600):
            clock.now = float(second)
            display.show(progress)
        display.show(progress, last=True)
    assert len(out.getvalue().splitlines()) <= 8
