"""Quantizations as jobs of an agent, on a real registry: their rows and files, and what ends and lost ancestors do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.db import schema
from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.states import State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import KINDS, QUANTIZATION, SYNTHESIS
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie, Nearest, Noise, RealImages, Reconstruction
from qsweep.workers import checkpoints
from qsweep.workers.zero_shot.quantization import ModelQuantizer
from tests.workers.test_agent import SETTINGS, agent, register

GENIE = Genie(image_count=16, image_batch=8, image_iterations=3, embedding_size=8)
ASKED = Reconstruction(weight_bits=2, activation_bits=4, unit_iterations=6, unit_batch=8)
Rows = dict[str, list[dict[str, Any]]]


def chain(images: Any = GENIE, asked: Nearest = ASKED, **settings: Any) -> list[Job]:
    """A training in full precision, images of its model, and its quantization on them."""
    training = Job(training=Training.from_settings(SETTINGS | {"bits": 32, "learning_rate": 0.01} | settings))
    above = Job(training=training.training, kind=SYNTHESIS, parent=training.identity, measure=images)
    below = Job(training=training.training, kind=QUANTIZATION, parent=above.identity, measure=asked, above=(images,))
    return [training, above, below]


def rows_of(home: Home, registry: Registry, sweep: int) -> Rows:
    """The rows of all kinds, without where and when they came about."""
    pointers, store = registry.catalogue.committed(sweep), ResultStore(home.store)
    changing = ("seconds", "finished_at", "attempt", "parent_attempt", "steps_per_second")
    names = [name for kind in (SYNTHESIS, QUANTIZATION) for name in kind.rows]
    return {
        name: [{k: v for k, v in row.items() if k not in changing} for row in store.read(name, pointers).to_pylist()]
        for name in names
    }


def test_a_quantization_leaves_its_model_and_its_rows(home: Home, registry: Registry) -> None:
    jobs = [
        *chain(),
        *chain(Noise(image_count=16)),
        *chain(RealImages(image_count=16), Nearest(weight_bits=2, activation_bits=4)),
    ]
    sweep = register(registry, *dict.fromkeys(jobs))
    agent(home, registry).run()
    done = {one.identity: one for one in registry.catalogue.jobs(sweep)}
    assert {one.state for one in done.values()} == {State.DONE}
    rows = rows_of(home, registry, sweep)
    found = {row["images"]: row for row in rows["quantizations"]}
    assert {
        name: (row["rounding"], row["weight_bits"], row["activation_bits"], row["bits"]) for name, row in found.items()
    } == {
        "genie": ("reconstruction", 2, 4, 32),
        "noise": ("reconstruction", 2, 4, 32),
        "train": ("nearest", 2, 4, 32),
    }
    trained, made, quantized = (done[one.identity] for one in jobs[:3])
    row = found["genie"]
    assert (row["parent"], row["model_hash"], row["images_hash"]) == (
        trained.identity,
        trained.model_hash,
        made.model_hash,
    )
    assert all(row[field.name] is not None for field in schema.QUANTIZATION if field.name != "parent_attempt")
    assert row["generalization_gap"] == pytest.approx(row["test_loss"] - row["train_loss"])
    assert row["accuracy_drop"] == pytest.approx(row["float_test_accuracy"] - row["test_accuracy"])
    units = [one for one in rows["units"] if one["job"] == quantized.identity]
    assert [one["index"] for one in units] == list(range(len(units)))
    assert {one["job"] for one in rows["units"]} == {jobs[2].identity, jobs[5].identity}
    content = checkpoints.load(home.models / str(quantized.model_file), str(quantized.model_hash))
    assert set(content["codes"]) == {layer.name for layer in jobs[0].training.model.layers(jobs[0].training.data)}
    noise, real = (
        checkpoints.load(home.models / str(done[jobs[n].identity].model_file), str(done[jobs[n].identity].model_hash))[
            "images"
        ]
        for n in (4, 7)
    )
    assert (noise.shape, real.shape) == (torch.Size((16, 1, 8, 8)),) * 2
    assert [one["loss"] for one in rows["syntheses"] if one["images"] != "genie"] == [None, None]
    assert audit(home, deep=True) == []


def test_a_quantization_that_was_stopped_twice_goes_on_to_the_same_bytes(
    home: Home, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Home.at(tmp_path / "undisturbed")
    other.prepare()
    with Registry.open(other.registry, create=True) as undisturbed:
        first = register(undisturbed, *chain())
        agent(other, undisturbed).run()
        wanted = rows_of(other, undisturbed, first), undisturbed.catalogue.jobs(first)[2].model_hash
    sweep = register(registry, *chain())
    step: Callable[[ModelQuantizer], None] = ModelQuantizer.step
    taken = list[int]()
    for stop in (4, 12):
        worker = agent(home, registry)

        def then_stop(made: ModelQuantizer, stop: int = stop, worker: Any = worker) -> None:
            step(made)
            taken.append(made.position)
            if made.position == stop:
                worker.place.stop.set()

        monkeypatch.setattr(ModelQuantizer, "step", then_stop)
        worker.run()
        assert registry.catalogue.jobs(sweep)[2].state is State.QUEUED
    agent(home, registry).run()
    done = registry.catalogue.jobs(sweep)[2]
    assert taken == list(range(1, len(taken) + 1))
    assert (rows_of(home, registry, sweep), done.model_hash) == wanted


def test_what_stands_on_an_invalidated_ancestor_is_done_again(home: Home, registry: Registry) -> None:
    sweep = register(registry, *chain())
    agent(home, registry).run()
    before = registry.catalogue.jobs(sweep)
    assert registry.sweeps.invalidate([before[1].id], "wrong images") == 2
    assert registry.sweeps.invalidate([before[0].id], "wrong model") >= 1
    agent(home, registry).run()
    after = registry.catalogue.jobs(sweep)
    assert [one.state for one in after] == [State.DONE] * 3
    assert all(one.attempt > old.attempt for one, old in zip(after, before, strict=True))
    assert [one.model_hash for one in after] == [one.model_hash for one in before]


def test_a_quantization_of_a_diverged_training_says_so(home: Home, registry: Registry) -> None:
    sweep = register(registry, *chain(learning_rate=100.0, weight_decay=1.0))
    agent(home, registry).run()
    assert [(one.state, one.diverged) for one in registry.catalogue.jobs(sweep)] == [(State.DONE, True)] * 3


def test_a_job_knows_the_images_that_it_stands_on() -> None:
    job = chain()[2]
    again = Job.from_json(job.to_json())
    assert (again, again.identity) == (job, job.identity)
    settings = job.settings()
    assert (settings["images"], settings["rounding"], settings["bits"], settings["activation_bits"]) == (
        "genie",
        "reconstruction",
        32,
        4,
    )
    assert KINDS[job.kind.name].plural == "quantizations"
