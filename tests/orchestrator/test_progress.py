"""Progress of a launch: plain lines that get rarer, and a time left that doesn't jump."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from itertools import pairwise

from rich.console import Console

from qsweep.db.progress import Progress, Rhythm
from qsweep.db.rows import Counts
from qsweep.db.states import State
from qsweep.orchestrator.board import Display, launch_picture
from qsweep.orchestrator.progress import Means, Tally
from qsweep.reports.quantization import Quantization
from qsweep.sweeps.files import read_sweep

ALL = read_sweep("digits-grid").jobs()
JOBS = [job for job in ALL if job.cohort_key == ALL[0].cohort_key]

INT2 = Quantization(bits=2)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def counts(done: int, running: int, queued: int) -> Counts:
    return Counts(done=done, running=running, queued=queued)


def work(done: int, of: int) -> dict[State, float]:
    return dict.fromkeys(State, 0.0) | {State.DONE: done * JOBS[0].cost, State.QUEUED: (of - done) * JOBS[0].cost}


COHORTS = {JOBS[0].cohort_key: JOBS[0].cost}


def note(jobs: int, step: int, steps: int = 100) -> str:
    return json.dumps({"cohort": JOBS[0].cohort_key, "jobs": jobs, "step": step, "steps": steps})


def test_the_time_left_does_not_jump_when_cohorts_end_together() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.look(counts(0, 24, 72), work(0, 96))
    tally.mark_start()
    left = []
    for second in range(1, 331):  # two agents with cohorts of 12; a cohort takes 100 s
        clock.now = float(second)
        ended, step = divmod(second, 100)
        notes = [(note(12, step), 12)] * 2 if step else [("", 12)] * 2  # between two cohorts agents say nothing
        progress = tally.look(
            counts(24 * ended, 24, 72 - 24 * ended), work(24 * ended, 96), cohorts=COHORTS, notes=notes
        )
        if second > 20:
            assert progress.seconds_left is not None
            left.append(progress.seconds_left)
    assert max(abs(before - 1 - after) for before, after in pairwise(left)) < 3
    assert abs(left[-1] - 70) < 2


def test_results_that_come_after_the_agents_note_is_gone_take_nothing_back() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.look(counts(0, 12, 12), work(0, 24))
    tally.mark_start()
    clock.now = 90.0
    before = tally.look(counts(0, 12, 12), work(0, 24), cohorts=COHORTS, notes=[(note(12, 90), 12)]).seconds_left
    clock.now = 91.0
    progress = tally.look(counts(0, 12, 12), work(0, 24), cohorts=COHORTS, notes=[("", 12)])
    assert before is not None
    assert progress.seconds_left is not None
    assert abs(progress.seconds_left - before) < 5
    assert progress.share >= 0.44


def test_nothing_is_said_of_the_time_left_before_anything_is_done() -> None:
    progress = Tally().look(counts(0, 4, 0), work(0, 4))
    assert progress.seconds_left is None
    assert progress.line().endswith("time left: unknown")


def test_a_finished_sweep_is_complete() -> None:
    progress = Tally().look(counts(4, 0, 0), work(4, 4))
    assert progress.share == 1
    assert progress.line().startswith("4/4 done")
    assert progress.line().endswith("complete")


def test_who_has_nothing_left_to_do_does_not_call_complete_what_is_away_or_blocked() -> None:
    away = Tally().look(replace(counts(2, 2, 0), away=2), work(2, 4))
    blocked = Tally().look(counts(2, 0, 2), work(2, 4), blocked=2)
    assert [one.time_left() for one in (away, blocked)] == ["nothing left to do here"] * 2


def test_what_diverged_has_nothing_to_average() -> None:
    means = Means()
    row = {"bits": 2, "diverged": False, "train_loss": 1.0, "test_loss": 2.0, "generalization_gap": 1.0}
    means.add([row | {"test_accuracy": 0.5}, row | {"test_accuracy": 0.7}, row | {"test_accuracy": None}])
    means.add([row | {"test_accuracy": 0.9, "diverged": True}])
    assert list(means) == [INT2]
    assert (means[INT2].models, means[INT2].of("test_accuracy")) == (2, 0.6)


def test_a_launch_shows_the_same_on_a_terminal_in_lines_that_fit() -> None:
    far = Counts(done=7, diverged=3, running=4, queued=9, failed=1, away=1)
    progress = Progress(counts=far, blocked=2, size=972, work=21.0, left=14.0, lately=1.0, seconds=2.0)
    console = Console(file=io.StringIO(), width=80)
    console.print(launch_picture("grid@abc", progress, Means(), 80))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "(3 diverged)",
        "running           3",
        "queued            7",
        "blocked           2",
        "away              1",
    ):
        assert part in text
    assert "launched, of 972 in the sweep" in text
    assert progress.line() == (
        "7/21 done (3 diverged), 3 running, 7 queued, 1 failed, 2 blocked, 1 checked out to bundles "
        "(of 972 in the sweep) · 30 jobs/min · time left: about 28 s"
    )
    assert "30 jobs/min over the last 2 s · time left: about 28 s" in text


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
    progress = Tally(clock=clock).look(counts(0, 20, 0), work(0, 20))
    with Display(console, Rhythm(clock)) as display:
        for second in range(600):
            clock.now = float(second)
            display.show(lambda width, height: "", progress.line(), share=0.0)
        display.show(lambda width, height: "", progress.line(), share=0.0, last=True)
    assert len(out.getvalue().splitlines()) <= 8
