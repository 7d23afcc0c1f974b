"""Made-up results of real sweeps, put into a real registry and a real store as an agent would. No torch."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import Claim, Finished, Scope, Sweep
from qsweep.reports.source import RegistrySource
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.spec import variant
from tests.db.conftest import agent_info

SWEEP = """
title = "Made up"
tables = ["table1"]
compare_with = "CIFAR-10"
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
depth = 2
weight_decay = 0.0
epochs = 3
batch_size = 64
[axes]
optimizer = ["sgd", "adam"]
width = [2, 3, 4]
bits = [32, 8, 4, 2]
learning_rate = [0.01]
"""
"""24 trainings in three cohorts."""
PROVENANCE = {
    "code": "1.0+made", "torch": "2.0", "device": "cpu", "host": "here", "slots": 4, "form": "grouped",
    "seconds": 1.5, "steps_per_second": 100.0,
}  # fmt: skip


@dataclass
class Made:
    """A sweep with made-up results, and the rows that count, kind by kind, for an independent computation."""

    home: Home
    sweep: Sweep
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"runs": [], "epochs": [], "layers": []})

    def frame(self, kind: str = "runs") -> pd.DataFrame:
        return pd.DataFrame(self.rows[kind])


_KEPT: dict[tuple[object, ...], Made] = {}
"""What `finished` has made in this process. Nobody writes there: tests have copies."""


def finished(
    home: Home, text: str = SWEEP, name: str = "made", *, cohorts: int | None = None, diverged: Sequence[int] = ()
) -> Made:
    """`launch` and `work`, done once and copied for each test that asks for the same; on Postgres, done each time."""
    if home.registry.startswith("postgresql"):
        return work(launch(home, text, name), cohorts=cohorts, diverged=diverged)
    beside = tuple(sorted(path.read_text() for path in home.root.parent.glob("*.toml")))
    key = (text, name, cohorts, tuple(diverged), beside)
    if key not in _KEPT:
        folder = Path(tempfile.mkdtemp(prefix="qsweep-made-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for path in home.root.parent.glob("*.toml"):
            shutil.copy(path, folder)
        _KEPT[key] = work(launch(home_at(folder), text, name), cohorts=cohorts, diverged=diverged)
    kept = _KEPT[key]
    shutil.copytree(kept.home.root, home.root, ignore=shutil.ignore_patterns("registry.db*"))
    shutil.copy(kept.home.registry, home.registry.removeprefix("sqlite:///"))
    shutil.copy(kept.home.root.parent / f"{name}.toml", home.root.parent)
    return Made(home=home, sweep=kept.sweep, rows={kind: list(rows) for kind, rows in kept.rows.items()})


def launch(home: Home, text: str = SWEEP, name: str = "made") -> Made:
    """Registers the sweep that `text` describes, without results. A built-in one if `text` is empty."""
    path = home.root.parent / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    spec = read_sweep(str(path) if text else name)
    jobs = spec.jobs()
    home.results.mkdir(parents=True, exist_ok=True)
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(
            name=spec.name,
            label=variant(jobs),
            spec=spec.to_json(),
            size=len(jobs),
            owner="me",
            code="1.0+made",
            written=True,
        )
        registry.sweeps.register(sweep.id, jobs)
    return Made(home=home, sweep=sweep)


def work(made: Made, *, cohorts: int | None = None, seed: int = 0, diverged: Sequence[int] = ()) -> Made:
    """Finishes the sweep's next cohorts. Beside each counted file lie rows of an attempt that never counted."""
    dice = random.Random(seed)
    store = ResultStore(made.home.store)
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info())
        number = 0
        while cohorts is None or number < cohorts:
            head = registry.queue.next_cohort(agent, Scope(sweep=made.sweep.id))
            claims = [] if head is None else registry.queue.claim(agent, head, 4, Scope(sweep=made.sweep.id))
            if not claims:
                break
            publication = f"{agent:06d}-{number:012x}"
            rows = _rows(claims, dice, diverged, len(made.rows["runs"]))
            for kind, some in rows.items():
                store.write(kind, publication, some)
                zombie = [{**row, "attempt": row["attempt"] + 1, "seconds": 1e9} for row in some if "seconds" in row]
                store.write(kind, publication.replace("-", "-f"), zombie)
                made.rows.setdefault(kind, []).extend(some)
            lost = {row["job"] for kind in ("runs", "measures") for row in rows.get(kind, ()) if row["diverged"]}
            finished = [
                Finished(
                    job_id=one.job_id, attempt=one.attempt, publication=publication, diverged=one.job.identity in lost
                )
                for one in claims
            ]
            assert len(registry.queue.finish(agent, finished).jobs) == len(claims)
            number += 1
        registry.agents.retire(agent)
    return made


def _rows(
    claims: Sequence[Claim], dice: random.Random, diverged: Sequence[int], before: int
) -> dict[str, list[dict[str, Any]]]:
    origin = PROVENANCE | {"finished_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    if claims[0].job.kind is FLATNESS:
        return {"measures": [_measure(claim, dice) | origin for claim in claims]}
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "epochs": [], "layers": []}
    for index, claim in enumerate(claims, before):
        key = {"job": claim.job.identity, "attempt": claim.attempt}
        lost = index in diverged
        train, test = dice.random(), dice.random()
        numbers = {
            "train_loss": train, "test_loss": test, "generalization_gap": test - train,
            "train_accuracy": dice.random(), "test_accuracy": dice.random(),
        }  # fmt: skip
        rows["runs"].append(
            key
            | origin
            | claim.job.settings()
            | {name: None if lost else value for name, value in numbers.items()}
            | {"diverged": lost, "chosen_epoch": None if lost else 3}
        )
        rows["epochs"] += [
            key | {"epoch": epoch, "train_loss": float("nan") if lost else dice.random(), "learning_rate": 0.01}
            for epoch in (1, 2, 3)
        ]
        rows["layers"] += [
            key | {"layer": name, "index": place, "step_size": dice.random(), "weights": 10}
            for place, name in enumerate(("first", "last"))
        ]
    return rows


def _measure(claim: Claim, dice: random.Random) -> dict[str, Any]:
    radius = dice.random()
    return {
        "job": claim.job.identity, "attempt": claim.attempt, **claim.job.settings(), "parent": claim.job.parent,
        "diverged": False, "saturated": dice.random() < 0.2, "radius": radius, "flatness": radius**-2,
        "value_init": dice.random(), "value_orig": dice.random(), "weight_norm": dice.random(),
        "trace": [{"radius": radius, "accuracies": [0.5, 0.25], "accuracy": 0.375, "displacement": 0.1}],
    }  # fmt: skip


@contextmanager
def sources(made: Made) -> Iterator[list[RegistrySource]]:
    """Every sweep of the home, the one launched last first."""
    with Registry.open(made.home.registry) as registry:
        yield [RegistrySource(made.home, registry, one) for one in registry.catalogue.sweeps()]


def home_at(folder: Path, registry: str | None = None) -> Home:
    return Home.at(folder / "home", registry=registry)
