"""Syntheses as jobs of an agent, on a real registry: their files and rows, and what a stop or a lost parent does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from qsweep.db import schema
from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.states import State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import SYNTHESIS
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie
from qsweep.workers import checkpoints
from qsweep.workers.agent.endings import Stopped
from qsweep.workers.kinds.synthesis import IMAGES
from qsweep.workers.zero_shot.synthesis import Synthesizer
from tests.workers.test_agent import SETTINGS, agent, register

ASKED = Genie(image_count=16, image_batch=8, image_iterations=5, embedding_size=8)


def jobs() -> tuple[Job, Job]:
    """A training in full precision, and a synthesis from its model."""
    training = Job(training=Training.from_settings(SETTINGS | {"bits": 32, "learning_rate": 0.01}))
    below = Job(training=training.training, kind=SYNTHESIS, parent=training.identity, measure=ASKED)
    return training, below


def rows_of(home: Home, registry: Registry, sweep: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the synthesis, without where and when it was done."""
    pointers, store = registry.catalogue.committed(sweep), ResultStore(home.store)
    changing = ("seconds", "finished_at", "attempt", "parent_attempt")
    found: dict[str, list[dict[str, Any]]] = {}
    for name in SYNTHESIS.rows:
        table: pa.Table = store.read(name, pointers)
        found[name] = [{k: v for k, v in row.items() if k not in changing} for row in table.to_pylist()]
    return found


@pytest.fixture
def undisturbed(tmp_path: Path) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The rows, and the hash of the file, of a synthesis that nothing happened to."""
    home = Home.at(tmp_path / "undisturbed")
    home.prepare()
    with Registry.open(home.registry, create=True) as registry:
        sweep = register(registry, *jobs())
        agent(home, registry).run()
        done = registry.catalogue.jobs(sweep)[1]
        assert done.state is State.DONE
        return rows_of(home, registry, sweep), str(done.model_hash)


def test_a_synthesis_leaves_its_images_and_its_rows(home: Home, registry: Registry) -> None:
    sweep = register(registry, *jobs())
    agent(home, registry).run()
    trained, made = registry.catalogue.jobs(sweep)
    images = checkpoints.load(home.models / str(made.model_file), str(made.model_hash))[IMAGES]
    assert (images.shape, images.dtype) == ((16, 1, 8, 8), torch.float32)
    rows = rows_of(home, registry, sweep)
    assert {name: len(found) for name, found in rows.items()} == {"syntheses": 1, **ASKED.rows()}
    (row,) = rows["syntheses"]
    assert (row["parent"], row["model_hash"]) == (trained.identity, trained.model_hash)
    assert (row["images"], row["image_count"], row["bits"], row["slots"]) == ("genie", 16, 32, 1)
    assert sum(row["class_counts"]) == 16
    assert all(
        row[field.name] is not None
        for field in schema.SYNTHESIS
        if field.name not in {"parent_attempt", "matching_loss", "diversity_loss"}
    )
    assert [(one["batch"], one["iteration"]) for one in rows["synthesis_losses"]] == [
        (batch, iteration) for batch in range(2) for iteration in range(5)
    ]
    ends = [one for one in rows["synthesis_losses"] if one["iteration"] == 4]
    assert row["statistics_loss"] == pytest.approx(sum(one["statistics_loss"] for one in ends) / 2)
    torch.testing.assert_close(torch.tensor(rows["synthetic_images"][9]["pixels"]).view(1, 8, 8), images[9])
    assert audit(home, deep=True) == []
    assert list((home.checkpoints / made.identity).glob("*")) == []


@pytest.mark.parametrize("stop", [5, 8])
def test_a_synthesis_that_was_stopped_goes_on_to_the_same_bytes(
    home: Home,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[dict[str, list[dict[str, Any]]], str],
    stop: int,
) -> None:
    sweep = register(registry, *jobs())
    worker = agent(home, registry)
    step: Callable[[Synthesizer], None] = Synthesizer.step
    taken = list[int]()

    def then_stop(made: Synthesizer) -> None:
        step(made)
        taken.append(made.position)
        if made.position == stop:
            worker.place.stop.set()

    monkeypatch.setattr(Synthesizer, "step", then_stop)
    worker.run()
    assert registry.catalogue.jobs(sweep)[1].state is State.QUEUED
    agent(home, registry).run()
    done = registry.catalogue.jobs(sweep)[1]
    assert (done.state, taken) == (State.DONE, list(range(1, ASKED.steps + 1)))
    assert (rows_of(home, registry, sweep), done.model_hash) == undisturbed


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_no_bits(
    home: Home,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[dict[str, list[dict[str, Any]]], str],
) -> None:
    monkeypatch.setenv("QSWEEP_CHECKPOINT_STEPS", "2")
    sweep = register(registry, *jobs())
    worker = agent(home, registry)
    step: Callable[[Synthesizer], None] = Synthesizer.step
    taken = list[int]()

    def then_fail(made: Synthesizer) -> None:
        step(made)
        taken.append(made.position)
        if len(taken) == 7:
            (home.checkpoints / jobs()[1].identity / "1-6.pt").write_bytes(b"damaged")
            raise Stopped

    monkeypatch.setattr(Synthesizer, "step", then_fail)
    worker.run()
    agent(home, registry).run()
    done = registry.catalogue.jobs(sweep)[1]
    assert (done.state, taken[7:]) == (State.DONE, list(range(5, ASKED.steps + 1)))
    assert (rows_of(home, registry, sweep), done.model_hash) == undisturbed


def test_what_was_synthesized_from_an_invalidated_model_is_synthesized_again(home: Home, registry: Registry) -> None:
    sweep = register(registry, *jobs())
    agent(home, registry).run()
    trained, first = registry.catalogue.jobs(sweep)
    assert registry.sweeps.invalidate([trained.id], "wrong") == 2
    agent(home, registry).run()
    trained, second = registry.catalogue.jobs(sweep)
    assert [(one.state, one.attempt) for one in (trained, second)] == [(State.DONE, 2)] * 2
    assert (second.model_hash, second.model_file == first.model_file) == (first.model_hash, False)


def test_a_synthesis_from_a_diverged_training_says_so(home: Home, registry: Registry) -> None:
    settings = SETTINGS | {"bits": 32, "learning_rate": 100.0, "weight_decay": 1.0}
    training = Job(training=Training.from_settings(settings))
    below = Job(training=training.training, kind=SYNTHESIS, parent=training.identity, measure=ASKED)
    sweep = register(registry, training, below)
    agent(home, registry).run()
    assert [(one.state, one.diverged) for one in registry.catalogue.jobs(sweep)] == [(State.DONE, True)] * 2
    rows = rows_of(home, registry, sweep)
    assert ([row["diverged"] for row in rows["syntheses"]], rows["synthetic_images"]) == ([True], [])
