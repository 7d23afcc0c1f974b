"""`status --watch`: what a lookout sees, and how it looks on a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import Blocked, Checkpoint, Finished, Sweep
from qsweep.db.states import Obstacle
from qsweep.orchestrator import lookout as lookout_module
from qsweep.orchestrator.board import LONGEST, content, pause_after, picture, plain_line, sparkline, watch
from qsweep.orchestrator.lookout import Lookout, mean_losses
from qsweep.reports.quantization import Quantization
from tests.conftest import Qsweep
from tests.db.conftest import agent_info, claim, trained

INT2 = Quantization(bits=2)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "registry.db", create=True) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def sweep_of(registry: Registry, size: int) -> Sweep:
    """Half of the jobs at 2 bits, half in full precision."""
    sweep = registry.sweeps.add(name="grid", label="abc", spec="{}", size=size)
    registry.sweeps.register(sweep.id, trained(size // 2, bits=2) + trained(size // 2, bits=32))
    return sweep


def finish(registry: Registry, store: ResultStore, agent: int, count: int, name: str) -> None:
    """Train `count` jobs: the loss of each is the number of its bits."""
    held = claim(registry, agent, count)
    rows = [
        {"job": one.job.identity, "attempt": one.attempt, "diverged": False, **one.job.settings()}
        | dict.fromkeys(("train_loss", "test_loss", "generalization_gap", "test_accuracy"), one.job.training.bits)
        for one in held
    ]
    store.write("runs", name, rows)
    registry.queue.finish(agent, [Finished(job_id=one.job_id, attempt=one.attempt, publication=name) for one in held])


def test_the_means_hold_what_was_done_before_and_what_is_done_since(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 12), registry.agents.enlist(agent_info())
    finish(registry, store, agent, 5, "first")
    lookout = Lookout(registry, store, sweep)
    first = lookout.look()
    assert (first.known, first.progress.counts.done, first.is_over) == (5, 5, False)
    finish(registry, store, agent, 7, "second")
    second = lookout.look()
    assert (second.known, second.progress.counts.done, second.is_over, second.progress.seconds_left) == (
        12,
        12,
        True,
        0.0,
    )
    assert {str(name): (mean.models, mean.of("test_loss")) for name, mean in second.means.items()} == {
        "FP32": (6, 32.0),
        "Int2": (6, 2.0),
    }
    assert lookout.look().known == 12


def test_superseded_results_leave_the_means(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 4), registry.agents.enlist(agent_info())
    finish(registry, store, agent, 4, "first")
    lookout = Lookout(registry, store, sweep)
    lookout.look()
    wrong = next(row for row in registry.catalogue.jobs(sweep.id) if row.job.training.bits == 2)
    registry.sweeps.invalidate([wrong.id], "wrong")
    lookout.look()
    found = lookout.look()
    assert (found.known, found.means[INT2].models, found.progress.counts.queued) == (3, 1, 1)


def test_a_look_at_many_results_takes_them_in_part_by_part(
    registry: Registry, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout_module, "PART", 3)
    sweep, agent = sweep_of(registry, 10), registry.agents.enlist(agent_info())
    finish(registry, store, agent, 10, "all")
    seconds = iter(range(1_000))
    lookout = Lookout(registry, store, sweep, clock=lambda: 0.2 * next(seconds))
    known = [lookout.look().known for _ in range(10)]
    assert 3 <= known[0] < 10
    assert known == sorted(known)
    assert known[-1] == 10


def test_the_time_left_follows_the_work_that_was_seen(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 12), registry.agents.enlist(agent_info())
    now = 0.0
    lookout = Lookout(registry, store, sweep, clock=lambda: now)
    assert lookout.look().progress.seconds_left is None
    finish(registry, store, agent, 3, "quarter")
    now = 30.0
    assert lookout.look().progress.seconds_left == pytest.approx(90, rel=0.01)
    held = claim(registry, agent, 3)
    note = {"cohort": held[0].job.cohort_key, "jobs": 3, "step": 5, "steps": 10}
    registry.queue.beat(agent, json.dumps(note))
    assert lookout.look().progress.seconds_left == pytest.approx(30 * 7.5 / 4.5, rel=0.01)


def shown(lookout: Lookout, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(picture(lookout.look(), width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_picture_fits_a_terminal_of_80_columns_and_24_lines(registry: Registry, store: ResultStore) -> None:
    sweep = sweep_of(registry, 12)
    agents = [
        registry.agents.enlist(agent_info(host="a-very-long-host-name.example.org", pid=pid)) for pid in range(30)
    ]
    finish(registry, store, agents[0], 5, "first")
    held = claim(registry, agents[1], 2)
    note = {"cohort": held[0].job.cohort_key, "jobs": 2, "step": 5, "steps": 10}
    registry.queue.beat(agents[1], json.dumps(note))
    registry.sweeps.pause(sweep.id, "9 of the last 10 jobs failed alike, and " + "a long reason " * 10)
    lines = shown(Lookout(registry, store, sweep))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in (
        "grid@abc  paused (9 of the last",
        "done              5",
        "Int2  ",
        "paused",
        "waits for jobs",
        "more agents",
    ):
        assert part in text, text
    assert "5 jobs       running → done" in text


def test_what_to_do_about_blocked_jobs_can_be_copied_at_80_columns(registry: Registry, store: ResultStore) -> None:
    view = Lookout(registry, store, sweep_of(registry, 4)).look()
    parents = [f"{number:032x}" for number in range(5)]
    blocked = [Blocked(parent=parent, obstacle=Obstacle.FAILED, jobs=3, failure_class=None) for parent in parents]
    console = Console(file=io.StringIO(), width=80)
    console.print(picture(replace(view, blocked=blocked), 80, 40))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("qsweep retry grid@abc" in line for line in lines)
    assert any(f"qsweep show {parents[0][:12]}" in line for line in lines)


def test_an_agent_that_went_silent_says_so(registry: Registry, store: ResultStore) -> None:
    sweep = sweep_of(registry, 2)
    registry.agents.enlist(agent_info())
    lookout = Lookout(registry, store, sweep)
    view = lookout.look()
    silent = replace(view, agents=[replace(view.agents[0], expired=True, overdue=75.0)])
    console = Console(file=io.StringIO(), width=80)
    console.print(picture(silent, 80, 24))
    assert isinstance(console.file, io.StringIO)
    assert "silent, its lease ran out 1 min 15 s ago" in console.file.getvalue()


def test_without_a_terminal_there_are_plain_lines_until_all_is_done(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 4), registry.agents.enlist(agent_info())
    finish(registry, store, agent, 4, "all")
    lookout = Lookout(registry, store, sweep)
    console = Console(file=io.StringIO(), width=80)
    watch(lookout, console)
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert "grid@abc: 4/4 done, 0 running, 0 queued, 0 failed" in line
    assert line.endswith("complete")
    assert plain_line(lookout.look()).endswith("complete")
    assert json.loads(json.dumps(content(lookout.look())))["means"]["Int2"]["train_loss"] == 2


def test_watching_without_a_sweep_is_one_clear_message(qsweep: Qsweep) -> None:
    answer = qsweep("status", "--watch")
    assert answer.returncode == 2
    assert "there is no registry here" in answer.stderr


@pytest.mark.parametrize(("look", "pause"), [(0.01, 1.0), (0.05, 3.0), (3.1, LONGEST), (60.0, LONGEST)])
def test_the_pause_between_looks_is_bounded(look: float, pause: float) -> None:
    assert pause_after(look, 1.0) == pause
    assert LONGEST <= 5


def test_a_part_of_a_grid_is_shown_as_what_it_is(registry: Registry, store: ResultStore) -> None:
    sweep = registry.sweeps.add(name="grid", label="abc", spec="{}", size=972)
    registry.sweeps.register(sweep.id, trained(8))
    agent = registry.agents.enlist(agent_info())
    finish(registry, store, agent, 6, "some")
    lookout = Lookout(registry, store, sweep)
    assert "6/8 done" in plain_line(lookout.look())
    assert "(of 972 in the sweep)" in plain_line(lookout.look())
    text = "\n".join(shown(lookout))
    assert "75.0%" in text
    assert "8  launched, of 972 in the sweep" in text


def test_the_time_left_is_never_nothing_while_jobs_are_open(registry: Registry, store: ResultStore) -> None:
    """Another sweep's agent works on the same cohort, and says that it is far."""
    sweep, agent = sweep_of(registry, 4), registry.agents.enlist(agent_info())
    lookout = Lookout(registry, store, sweep)
    assert plain_line(lookout.look()).endswith("time left: unknown")
    finish(registry, store, agent, 1, "one")
    note = {"cohort": trained(1, bits=32)[0].cohort_key, "jobs": 900, "step": 10, "steps": 10}
    registry.queue.beat(agent, json.dumps(note))
    left = lookout.look().progress.seconds_left
    assert left is None or left > 0
    held = claim(registry, agent, 9)
    registry.queue.beat(agent, json.dumps(note | {"cohort": held[0].job.cohort_key}))
    assert not plain_line(lookout.look()).endswith("0 s")


def test_the_epochs_of_running_trainings_are_shown(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 4), registry.agents.enlist(agent_info())
    held = claim(registry, agent, 1)
    curve = [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}]
    saved = Checkpoint(job_id=held[0].job_id, attempt=1, step=9, epoch=2, file="f", checksum="c", curve=curve)
    registry.queue.checkpointed(agent, [saved])
    lookout = Lookout(registry, store, sweep)
    assert content(lookout.look())["epochs"] == [
        {"job": held[0].job.identity, "attempt": 1, "final": False, **row} for row in curve
    ]
    assert "1 in training, epoch 2 of 2, train loss 1.0000  █▁" in "\n".join(shown(lookout))


def test_a_mean_curve_leaves_out_what_is_not_finite(registry: Registry) -> None:
    assert sparkline([3.0, None, 1.0]) == "█ ▁"
    assert sparkline([1.0]) == "▁"
    sweep, agent = sweep_of(registry, 4), registry.agents.enlist(agent_info())
    rows = ([{"epoch": 1, "train_loss": 2.0}], [{"epoch": 1, "train_loss": 4.0}, {"epoch": 2, "train_loss": None}])
    for one, curve in zip(claim(registry, agent, 2), rows, strict=True):
        saved = Checkpoint(job_id=one.job_id, attempt=1, step=9, epoch=1, file="f", checksum="c", curve=curve)
        registry.queue.checkpointed(agent, [saved])
    assert mean_losses(registry.history.curves(sweep.id)) == [3.0, None]
