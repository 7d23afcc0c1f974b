"""Agents with the real registry, heartbeat and merging, whose trainings only wait; and processes of them."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from qsweep.db.belonging import settle_belonging
from qsweep.db.clock import machine_id
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentInfo, Checkpoint, Claim, Finished, Scope
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers.agent.heartbeat import Heartbeat

SPAWN = multiprocessing.get_context("spawn")
Record = list[tuple[str, float, float, float]]
"""Calls: name, when it began (Unix seconds), its seconds, and those of its thread's processor time."""
BASE = Training.from_settings(
    {"data": "digits", "model": "nin", "width": 8, "depth": 2, "optimizer": "sgd", "learning_rate": 0.1,
     "weight_decay": 0.0, "bits": 4, "epochs": 24, "batch_size": 64}
)  # fmt: skip
SHAPES = 20
"""Cohort keys: as many batch sizes."""
SWEEP = "fleet"
NOTHING = "SELECT 1"
"""A call that asks for nothing: what the machine, the drivers and the threads of a process take of all others."""
CALLS = ("beat", "next_cohort", "claim", "checkpointed", "finish")


def trainings(count: int) -> list[Job]:
    """So many jobs in SHAPES cohort keys."""
    each = -(-count // SHAPES)
    found = []
    for shape in range(SHAPES):
        base = replace(BASE, recipe=replace(BASE.recipe, batch_size=64 + shape))
        found += [Job(training=replace(base, recipe=replace(base.recipe, seed=seed))) for seed in range(each)]
    return found[:count]


def register(home: Home, count: int) -> tuple[int, float]:
    """Make the registry of this home with a sweep of so many jobs: the sweep, and the seconds of registering them."""
    home.prepare()
    jobs = trainings(count)
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name=SWEEP, label="a", spec="{}", size=len(jobs), written=True)
        began = time.perf_counter()
        registry.sweeps.register(sweep.id, jobs)
        seconds = time.perf_counter() - began
        settle_belonging(home, registry)
    return sweep.id, seconds


class Timed:
    """A queue whose calls are timed."""

    def __init__(self, queue: Any, record: Record) -> None:
        self._queue, self._record = queue, record

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._queue, name)
        if name not in CALLS:
            return call

        def timed(*given: Any, **named: Any) -> Any:
            at, began, busy = time.time(), time.perf_counter(), time.thread_time()
            try:
                return call(*given, **named)
            finally:
                self._record.append((name, at, time.perf_counter() - began, time.thread_time() - busy))

        return timed


class SimulatedAgent:
    """An agent with the real registry, heartbeat and merging, whose trainings only wait."""

    def __init__(self, home: Home, given: argparse.Namespace, record: Record) -> None:
        self.home, self.given = home, given
        self.registry = Registry.open(home.registry)
        self.queue = Timed(self.registry.queue, record)
        self.store = ResultStore(home.store)
        self.scope = Scope(sweep=given.sweep)
        self.stop = threading.Event()
        self.dice = random.Random()
        self.merging = _merging(home, self.registry, self.stop)
        self.record = record

    def ask_for_nothing(self) -> None:
        at, began, busy = time.time(), time.perf_counter(), time.thread_time()
        self.registry._database.read(lambda transaction: transaction.run(sa.text(NOTHING)).scalar())
        self.record.append((NOTHING, at, time.perf_counter() - began, time.thread_time() - busy))

    def run(self) -> None:
        time.sleep(self.dice.uniform(0, self.given.lease / 3))  # a cluster does not start them all at once
        info = AgentInfo(
            host="simulated", pid=os.getpid(), process_started=0.0, boot_id=machine_id(), backend="fleet",
            device="cpu", build="", lease=self.given.lease,
        )  # fmt: skip
        self.agent = self.registry.agents.enlist(info)
        heartbeat = Heartbeat(self.queue, self.agent, lease=self.given.lease, patience=1e9)  # type: ignore[arg-type]
        heartbeat.start()
        while not heartbeat.lost.is_set():
            head = self.queue.next_cohort(self.agent, self.scope)
            claims = self.queue.claim(self.agent, head, self.given.cohort, self.scope) if head else []
            if claims:
                self.train(claims, heartbeat)
            elif head is None:
                left = self.registry.queue.remaining(self.scope)
                if not left.running and not left.queued:
                    break
                time.sleep(1.0)
        heartbeat.stop()
        if self.merging is not None:
            self.merging.end(at_once=False)
        if not heartbeat.lost.is_set():
            self.registry.agents.retire(self.agent)
        self.registry.close()

    def train(self, claims: Sequence[Claim], heartbeat: Heartbeat) -> None:
        """Wait, with a checkpoint after each third of the time."""
        note = {"cohort": claims[0].job.cohort_key, "jobs": len(claims), "steps": 3}
        for third in (1, 2, 3):
            heartbeat.progress(json.dumps(note | {"step": third - 1}))
            time.sleep(self.given.seconds / 3 * self.dice.uniform(0.8, 1.2))
            self.ask_for_nothing()
            if third < 3:
                self.queue.checkpointed(self.agent, [self._checkpoint(one, third) for one in claims])
        publication = f"{self.agent:06d}-{self.dice.getrandbits(48):012x}"
        for kind, rows in self._rows(claims).items():
            self.store.write(kind, publication, rows)
        finished = [Finished(job_id=one.job_id, attempt=one.attempt, publication=publication) for one in claims]
        self.queue.finish(self.agent, finished)
        heartbeat.progress("")
        if self.merging is not None:
            self.merging.published()

    def _checkpoint(self, one: Claim, third: int) -> Checkpoint:
        curve = [{"epoch": epoch, "train_loss": self.dice.random(), "val_loss": None} for epoch in range(8 * third)]
        return Checkpoint(
            job_id=one.job_id, attempt=one.attempt, step=200 * third, epoch=8 * third,
            file=f"{one.job.identity}/{one.attempt}-{200 * third}.pt", checksum="0" * 64, curve=curve,
        )  # fmt: skip

    def _run_rows(self, claims: Sequence[Claim]) -> list[dict[str, Any]]:
        names = ("train_loss", "test_loss", "generalization_gap", "train_accuracy", "test_accuracy")
        return [
            {"job": one.job.identity, "attempt": one.attempt, "diverged": False, "seconds": 1.0}
            | one.job.settings()
            | {name: self.dice.random() for name in names}
            for one in claims
        ]

    def _rows(self, claims: Sequence[Claim]) -> dict[str, list[dict[str, Any]]]:
        rows: dict[str, list[dict[str, Any]]] = {"runs": self._run_rows(claims), "epochs": [], "layers": []}
        for one in claims:
            key = {"job": one.job.identity, "attempt": one.attempt}
            rows["epochs"] += [key | {"epoch": epoch, "train_loss": self.dice.random()} for epoch in range(4)]
            rows["layers"] += [key | {"layer": name, "index": place} for place, name in enumerate("ab")]
        return rows


def _merging(home: Home, registry: Registry, stop: threading.Event) -> Any:
    try:
        from qsweep.workers.agent.merging import Merging
    except ImportError:  # an older version: only its launcher merges
        return None
    return Merging.of(home, registry, stop)


def crew(folder: str, url: str, number: int, count: int, options: dict[str, Any], output: str) -> None:
    """A process of `count` agents. Writes its timings, one a line, as they come."""
    os.environ["OMP_NUM_THREADS"] = "1"
    given, home = argparse.Namespace(**options), Home.at(Path(folder), registry=url)
    record: Record = []
    threads = [threading.Thread(target=_work, args=(home, given, record), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    with Path(output, f"{number}.jsonl").open("w") as file:
        while True:
            alive = any(thread.is_alive() for thread in threads)
            lines, record[:] = list(record), record[len(record) :]
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            if not alive and not record:
                return
            time.sleep(0.5)


def _work(home: Home, given: argparse.Namespace, record: Record) -> None:
    try:
        SimulatedAgent(home, given, record).run()
    except QsweepError as error:
        sys.stderr.write(f"a simulated agent ended: {error}\n")


def options_of(sweep: int, given: argparse.Namespace) -> dict[str, Any]:
    """What agents in other processes are told."""
    return {"sweep": sweep} | {name: getattr(given, name) for name in ("cohort", "seconds", "lease")}


class Crews:
    """Processes of agents."""

    def __init__(self, folder: Path, url: str, options: dict[str, Any], each: int) -> None:
        self.folder, self.url, self.options, self.each = folder, url, options, each
        self.output = folder / "timings"
        self.output.mkdir()
        self.processes: list[Any] = []

    def start(self) -> None:
        number = len(self.processes)
        arguments = (str(self.folder), self.url, number, self.each, self.options, str(self.output))
        process = SPAWN.Process(target=crew, args=arguments)
        process.start()
        self.processes.append(process)

    def living(self) -> list[Any]:
        return [one for one in self.processes if one.is_alive()]

    def kill(self, some: Sequence[Any]) -> None:
        for one in some:
            os.kill(one.pid, signal.SIGKILL)
        for one in some:
            one.join()

    def timings(self) -> Iterator[tuple[str, float, float, float]]:
        for file in self.output.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                with suppress(ValueError):  # the last line of a killed process
                    name, at, seconds, busy = json.loads(line)
                    yield name, at, seconds, busy
