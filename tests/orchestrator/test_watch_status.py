"""`status --watch`: what a lookout sees, and how it looks on a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from db.registry import Registry
from db.results import ResultStore
from db.rows import Finished, Sweep
from orchestrator import lookout as lookout_module
from orchestrator.board import content, picture, plain_line, watch
from orchestrator.lookout import Lookout
from tests.conftest import Qsweep
from tests.db.conftest import agent_info, claim, trained


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "registry.db", create=True) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def sweep_of(registry: Registry, size: int) -> Sweep:
    """Half of the jobs at 2 bits, half in full precision."""
    sweep = registry.add_sweep(name="grid", label="abc", spec="{}", size=size)
    registry.register(sweep.id, trained(size // 2, bits=2) + trained(size // 2, bits=32))
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
    registry.finish(agent, [Finished(job_id=one.job_id, attempt=one.attempt, publication=name) for one in held])


def test_the_means_hold_what_was_done_before_and_what_is_done_since(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 12), registry.enlist(agent_info())
    finish(registry, store, agent, 5, "first")
    lookout = Lookout(registry, store, sweep)
    first = lookout.look()
    assert (first.known, first.counts.done, first.is_over) == (5, 5, False)
    finish(registry, store, agent, 7, "second")
    second = lookout.look()
    assert (second.known, second.counts.done, second.is_over, second.seconds_left) == (12, 12, True, 0.0)
    assert {name: (mean.models, mean.of("test_loss")) for name, mean in second.means.items()} == {
        "FP32": (6, 32.0),
        "Int2": (6, 2.0),
    }
    assert lookout.look().known == 12


def test_superseded_results_leave_the_means(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 4), registry.enlist(agent_info())
    finish(registry, store, agent, 4, "first")
    lookout = Lookout(registry, store, sweep)
    lookout.look()
    wrong = next(row for row in registry.jobs(sweep.id) if row.job.training.bits == 2)
    registry.invalidate([wrong.id], "wrong")
    lookout.look()
    found = lookout.look()
    assert (found.known, found.means["Int2"].models, found.counts.queued) == (3, 1, 1)


def test_a_look_at_many_results_takes_them_in_part_by_part(
    registry: Registry, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout_module, "PART", 3)
    sweep, agent = sweep_of(registry, 10), registry.enlist(agent_info())
    finish(registry, store, agent, 10, "all")
    seconds = iter(range(1_000))
    lookout = Lookout(registry, store, sweep, clock=lambda: 0.2 * next(seconds))
    known = [lookout.look().known for _ in range(10)]
    assert 3 <= known[0] < 10
    assert known == sorted(known)
    assert known[-1] == 10


def test_the_time_left_follows_the_work_that_was_seen(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 12), registry.enlist(agent_info())
    now = 0.0
    lookout = Lookout(registry, store, sweep, clock=lambda: now)
    assert lookout.look().seconds_left is None
    finish(registry, store, agent, 3, "quarter")
    now = 30.0
    assert lookout.look().seconds_left == pytest.approx(90, rel=0.01)
    held = claim(registry, agent, 3)
    note = {"cohort": held[0].job.cohort_key, "jobs": 3, "step": 5, "steps": 10}
    registry.beat(agent, json.dumps(note))
    assert lookout.look().seconds_left == pytest.approx(30 * 7.5 / 4.5, rel=0.01)


def shown(lookout: Lookout, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(picture(lookout.look(), width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_picture_fits_a_terminal_of_80_columns_and_24_lines(registry: Registry, store: ResultStore) -> None:
    sweep = sweep_of(registry, 12)
    agents = [registry.enlist(agent_info(host="a-very-long-host-name.example.org", pid=pid)) for pid in range(30)]
    finish(registry, store, agents[0], 5, "first")
    held = claim(registry, agents[1], 2)
    note = {"cohort": held[0].job.cohort_key, "jobs": 2, "step": 5, "steps": 10}
    registry.beat(agents[1], json.dumps(note))
    registry.pause(sweep.id, "9 of the last 10 jobs failed alike, and " + "a long reason " * 10)
    lines = shown(Lookout(registry, store, sweep))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in (
        "grid@abc  paused (9 of the last",
        "done              5",
        "Int2  ",
        "paused",
        "starting",
        "more agents",
    ):
        assert part in text, text
    assert "5 jobs       running → done" in text


def test_an_agent_that_went_silent_says_so(registry: Registry, store: ResultStore) -> None:
    sweep = sweep_of(registry, 2)
    registry.enlist(agent_info())
    lookout = Lookout(registry, store, sweep)
    view = lookout.look()
    silent = replace(view, agents=[replace(view.agents[0], expired=True, beat_at=view.at - 75)])
    console = Console(file=io.StringIO(), width=80)
    console.print(picture(silent, 80, 24))
    assert isinstance(console.file, io.StringIO)
    assert "silent for 1 min 15 s" in console.file.getvalue()


def test_without_a_terminal_there_are_plain_lines_until_all_is_done(registry: Registry, store: ResultStore) -> None:
    sweep, agent = sweep_of(registry, 4), registry.enlist(agent_info())
    finish(registry, store, agent, 4, "all")
    lookout = Lookout(registry, store, sweep)
    console = Console(file=io.StringIO(), width=80)
    watch(lookout, console)
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert "grid@abc: 4/4 done, 0 running, 0 queued, 0 failed" in line
    assert line.endswith("nothing left")
    assert plain_line(lookout.look()).endswith("nothing left")
    assert json.loads(json.dumps(content(lookout.look())))["means"]["Int2"]["train_loss"] == 2


def test_watching_without_a_sweep_is_one_clear_message(qsweep: Qsweep) -> None:
    answer = qsweep("status", "--watch")
    assert answer.returncode == 2
    assert "there is no registry here" in answer.stderr
