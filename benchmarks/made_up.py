"""A home with a finished sweep whose results are made up: `python -m benchmarks.made_up HOME SWEEP [KEY=VALUE …]`.

Every training gets random figures, published by the registry and the results store as an agent publishes what it has
computed, in cohorts of 12. It takes seconds, and stands for a sweep of that size wherever only the number of models
matters: what an answer costs does not depend on whether its figures are true. No model is kept.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentInfo, Claim, Finished, Scope
from qsweep.orchestrator.registration import register
from qsweep.orchestrator.selection import read_selection
from qsweep.sweeps.code import code_version, freeze
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import TRAIN
from qsweep.sweeps.training import Training

COHORT = 12
ORIGIN = {
    "torch": "made up", "device": "made up", "host": "made up", "slots": COHORT, "form": "gather",
    "seconds": 1.0, "steps_per_second": 100.0,
}  # fmt: skip


def make_up(
    home: Home, sweep: str, changes: Sequence[str] = (), *, seed: int = 0, pause: Callable[[], object] = lambda: None
) -> str:
    """Register every training of a sweep, and publish made-up results of each; the sweep's title. After each cohort it
    pauses."""
    selection = read_selection(sweep, changes=changes)
    assert all(job.kind is TRAIN for job in selection.jobs)
    freeze(home.code)
    registry, launched, _ = register(home, selection, None, code=code_version())
    dice, store = random.Random(seed), ResultStore(home.store)
    with registry:
        registry.sweeps.reactivate(launched.id)
        agent = registry.agents.enlist(_agent())
        for number, claims in enumerate(_cohorts(registry, agent, Scope(sweep=launched.id))):
            publication = f"{agent:06d}-{number:012x}"
            for kind, rows in made_up_rows([(one.job, one.attempt) for one in claims], dice).items():
                store.write(kind, publication, rows)
            finished = [Finished(job_id=one.job_id, attempt=one.attempt, publication=publication) for one in claims]
            accepted = registry.queue.finish(agent, finished)
            assert len(accepted.jobs) == len(claims)
            pause()
        registry.agents.retire(agent)
    return selection.title


def _agent() -> AgentInfo:
    return AgentInfo(
        host=platform.node(), pid=os.getpid(), process_started=0.0, boot_id="", backend="made up", device="made up",
        build="made up",
    )  # fmt: skip


def _cohorts(registry: Registry, agent: int, scope: Scope) -> Iterator[list[Claim]]:
    while (head := registry.queue.next_cohort(agent, scope)) is not None:
        claims = registry.queue.claim(agent, head, COHORT, scope)
        if not claims:
            return
        yield claims


def made_up_rows(jobs: Iterable[tuple[Job, int]], dice: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Figures of the right size in every column that these trainings have, each with the number of its attempt."""
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "epochs": [], "layers": []}
    for job, attempt in jobs:
        key, training = {"job": job.identity, "attempt": attempt}, job.training
        loss, accuracy = dice.uniform(0.01, 0.5), dice.uniform(0.9, 1.0)
        test_loss = loss + dice.uniform(0.0, 0.2)
        run = ORIGIN | training.settings() | {
            "code": code_version(), "finished_at": datetime.now(UTC), "diverged": False,
            "train_loss": loss, "train_accuracy": accuracy, "last_train_loss": loss,
            "test_loss": test_loss, "test_accuracy": accuracy * 0.97, "generalization_gap": test_loss - loss,
            "chosen_epoch": training.recipe.epochs, "init_hash": f"{dice.getrandbits(128):032x}",
            "weight_norm": dice.uniform(5.0, 10.0), "distance": dice.uniform(1.0, 5.0),
        }  # fmt: skip
        rows["runs"].append(key | run)
        rows["epochs"] += [
            key | {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy, "learning_rate": 0.01}
            for epoch in range(1, training.recipe.epochs + 1)
        ]
        rows["layers"] += [key | one for one in _layers(training, dice)]
    return rows


def _layers(training: Training, dice: random.Random) -> Iterator[dict[str, Any]]:
    quantized = training.quantizer is not None
    for index, layer in enumerate(training.model.layers(training.data)):
        norm = dice.uniform(1.0, 3.0)
        yield {
            "layer": layer.name, "index": index, "bits": training.bits, "weights": layer.weights,
            "step_size": dice.uniform(0.01, 0.2) if quantized else None,
            "step_size_init": 0.1 if quantized else None,
            "weight_norm": norm, "init_norm": norm, "distance": dice.uniform(0.1, 1.0),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    print(make_up(Home.at(given.home.absolute()), given.sweep, given.changes))


if __name__ == "__main__":
    main()
