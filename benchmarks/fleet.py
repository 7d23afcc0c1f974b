"""A fleet of a thousand agents on one Postgres, and what its registry takes. `python -m benchmarks.fleet`

The server is that of `qsweep db serve`, with full durability. Each agent is a thread of one of a few processes, with a
registry connection, a heartbeat and a merging thread of its own, all of them the real ones; its trainings only wait.
It claims cohorts, records two checkpoints of each with curves, writes real Parquet files and has them counted. Beside
it run a real launcher (whose agents are elsewhere) and three real `qsweep status --watch`, each on a terminal. Half of
the processes are killed with SIGKILL while their agents work, and others take their place once the leases have run out;
later the server is stopped hard and started again. At the end everything is counted by plain SQL and plain pyarrow.

`--part watchers` measures the launcher and the watchers alone, on a registry of that size at which a few agents work;
it runs on older versions of the code too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import sqlalchemy as sa
from rich.console import Console

from benchmarks import surroundings
from benchmarks.registry import fsync_ms
from qsweep.db.belonging import settle_belonging
from qsweep.db.clock import machine_id
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentInfo, AgentRow, Checkpoint, Claim, Finished, Scope
from qsweep.orchestrator import serving
from qsweep.orchestrator.backends.base import Backend, Fleet, Site
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.watch import Watch
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers.agent.heartbeat import Heartbeat

RESULTS = Path(__file__).parent / "results" / "fleet.json"
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
PROCESSES = 8
BACK = 1.2
"""Leases after which others take the place of those that were killed."""
NOTHING = "SELECT 1"
"""A call that asks for nothing: what the machine, the drivers and the threads of a process take of all others."""
ASKED = ("agents", "idle", "jobs", "cohort", "seconds", "lease", "processes", "watchers", "at_most")
CALLS = ("beat", "next_cohort", "claim", "checkpointed", "finish")


def trainings(count: int) -> list[Job]:
    """So many jobs in SHAPES cohort keys."""
    each = -(-count // SHAPES)
    found = []
    for shape in range(SHAPES):
        base = replace(BASE, recipe=replace(BASE.recipe, batch_size=64 + shape))
        found += [Job(training=replace(base, recipe=replace(base.recipe, seed=seed))) for seed in range(each)]
    return found[:count]


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


class Elsewhere(Backend):
    """Agents that others start and watch."""

    name = "elsewhere"

    def __init__(self, agents: int) -> None:
        self._agents = agents

    def survey(self, machine: Machine, workers: int | None) -> Site:
        return Site(hosts=frozenset(), agents=self._agents)

    def adopt(self, fleet: Fleet) -> None:
        return

    def start(self, count: int) -> None:
        return

    def alive(self) -> int:
        return self._agents

    def others(self, agents: Sequence[AgentRow]) -> int:
        return 0

    def stop(self, *, by_user: bool = False) -> None:
        return

    def kill(self) -> None:
        return


def launcher(folder: Path, url: str, agents: int) -> None:
    """A launcher's watch over the sweep, as `qsweep launch` runs it."""
    home = Home.at(folder, registry=url)
    with Registry.open(url) as registry:
        sweep = registry.catalogue.find_sweep(SWEEP)
        fleet = Fleet(
            home=home, workers=agents, gpus=0, lease=30, scope=Scope(sweep=sweep.id), title=sweep.title, code=""
        )
        with suppress(QsweepError):
            Watch(home, registry, sweep, Elsewhere(agents), fleet, Console()).run()


class Watched:
    """A process on a terminal of its own, whose processor time is read from the kernel."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        ours, theirs = pty.openpty()
        environment = surroundings() | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        threading.Thread(target=self._drain, args=(ours,), daemon=True).start()
        self.began, self.before, self.last = time.time(), 0.0, 0.0

    def _drain(self, terminal: int) -> None:
        with suppress(OSError):
            while os.read(terminal, 65536):
                pass

    def look(self) -> None:
        with suppress(psutil.Error):
            times = psutil.Process(self.process.pid).cpu_times()
            self.last, self.at = times.user + times.system, time.time()

    def mark(self) -> None:
        """What was taken so far was for the start."""
        self.look()
        self.began, self.before = time.time(), self.last

    def share(self) -> float:
        """Of a core, since the mark."""
        return (self.last - self.before) / max(self.at - self.began, 1e-9)

    def memory(self) -> float:
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).memory_info().rss / 1e6
        return 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def beside(folder: Path, url: str, agents: int, watchers: int) -> list[Watched]:
    """A launcher and so many watchers."""
    own = [sys.executable, "-m", "benchmarks.fleet", "--role", "launcher", "--folder", str(folder), "--url", url]
    look = [sys.executable, "-m", "qsweep.orchestrator.cli", "--home", str(folder), "--registry", url]
    return [
        Watched("launcher", [*own, "--agents", str(agents)]),
        *(Watched(f"watcher {number}", [*look, "status", SWEEP, "--watch"]) for number in range(1, watchers + 1)),
    ]


@contextmanager
def server() -> Iterator[serving.Server]:
    """A Postgres as `qsweep db serve` starts it."""
    import socket

    folder = Path(tempfile.mkdtemp(prefix="qsweep-fleet-"))
    folder.chmod(0o711)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    one = serving.Server(folder=folder / "pg", passwords=folder / "postgres.pgpass", host=serving.LOCAL, port=port)
    serving.start(one)
    try:
        yield one
    finally:
        if serving.is_running(one):
            serving.stop(one)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def server_processes(one: serving.Server) -> list[psutil.Process]:
    try:
        main = psutil.Process(int((one.data / "postmaster.pid").read_text().split()[0]))
        return [main, *main.children()]
    except (psutil.Error, OSError, ValueError):
        return []


class ServerTime:
    """The processor time of all processes of the server, those that have ended since the last look nearly included."""

    def __init__(self, one: serving.Server) -> None:
        self._server = one
        self._known: dict[tuple[int, float], float] = {}
        self.memory = 0.0

    def look(self) -> float:
        """Seconds so far."""
        memory = 0.0
        for process in server_processes(self._server):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._known[process.pid, process.create_time()] = times.user + times.system
                memory += process.memory_info().rss - process.memory_info().shared
        self.memory = max(self.memory, memory / 1e6)
        return sum(self._known.values())


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(values)
    at = {f"p{share}": 1000 * ordered[min(int(len(ordered) * share / 100), len(ordered) - 1)] for share in (50, 95, 99)}
    return at | {"largest": 1000 * ordered[-1], "calls": len(ordered)}


def fleet(given: argparse.Namespace) -> dict[str, Any]:
    """The whole of it: what was measured."""
    with server() as one, tempfile.TemporaryDirectory(prefix="qsweep-fleet-home-") as name:
        folder = Path(name)
        url, home = one.url, Home.at(folder, registry=one.url)
        home.prepare()
        jobs = trainings(given.jobs)
        with Registry.open(url, create=True) as registry:
            sweep = registry.sweeps.add(name=SWEEP, label="a", spec="{}", size=len(jobs), written=True)
            began = time.perf_counter()
            registry.sweeps.register(sweep.id, jobs)
            registered = time.perf_counter() - began
            settle_belonging(home, registry)
        del jobs
        _say(f"{given.jobs:,} jobs registered in {registered:.1f} s")
        options = _options(sweep.id, given)
        crews = Crews(folder, url, options, given.agents // given.processes)
        for _ in range(given.processes):
            crews.start()
        looked_at = beside(folder, url, given.agents, given.watchers)
        try:
            return {"registering_s": registered} | _run(given, one, crews, looked_at, url, folder)
        finally:
            crews.kill(crews.living())
            for watched in looked_at:
                watched.end()


def _options(sweep: int, given: argparse.Namespace) -> dict[str, Any]:
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


def _run(
    given: argparse.Namespace, one: serving.Server, crews: Crews, looked_at: list[Watched], url: str, folder: Path
) -> dict[str, Any]:
    cost, began = ServerTime(one), time.time()
    killed_at = back_at = restarted_at = 0.0
    restart: tuple[float, float] = (0.0, 0.0)
    spent_before, load = cost.look(), []
    marked = over = False
    while True:
        time.sleep(1.0)
        spent = cost.look()
        for watched in looked_at:
            watched.look()
        load.append(os.getloadavg()[0])
        if not marked and time.time() - began > WARM:
            marked = True
            for watched in looked_at:
                watched.mark()
        done, running, open_ = _counts(url)
        if not over and time.time() - began > given.at_most:
            over = True
            _end_early(url)
            _say(f"the time is over with {done:,} jobs done: agents finish what they have")
        if not killed_at and done >= given.jobs * given.kill_at and running >= given.agents * given.cohort * 0.5:
            doomed = crews.living()[: len(crews.living()) // 2]
            crews.kill(doomed)
            killed_at = time.time()
            _say(f"{len(doomed) * crews.each} agents killed with {done:,} jobs done")
        if killed_at and not back_at and time.time() - killed_at > BACK * given.lease:
            for _ in range(given.processes // 2):
                crews.start()
            back_at = time.time()
        if back_at and not restarted_at and done >= given.jobs * given.restart_at:
            begin = time.time()
            serving.stop(one)
            serving.start(one)
            restart, restarted_at = (begin, time.time()), time.time()
            _say(f"the server was stopped and started in {restart[1] - restart[0]:.1f} s with {done:,} jobs done")
        if not (running if over else open_):
            break
    ended = time.time()
    for process in crews.living():
        process.join(60)
    calls: dict[str, list[float]] = defaultdict(list)
    client: dict[str, list[float]] = defaultdict(list)
    during: list[float] = []
    for name, at, seconds, busy in crews.timings():
        client[name].append(busy)
        if restart[0] and at < restart[1] + AFTER and at + seconds > restart[0]:
            during.append(seconds)
        else:
            calls[name].append(seconds)
    wall = ended - began
    figures: dict[str, Any] = {
        "seconds": wall,
        "jobs_done": done,
        "jobs_per_s": done / wall,
        "calls_per_s": sum(map(len, calls.values())) / wall,
        "calls": {name: percentiles(values) for name, values in sorted(calls.items())},
        "client_cpu_ms": {name: 1000 * sum(values) / len(values) for name, values in sorted(client.items())},
        "server_cpu_ms_a_call": 1000 * (spent - spent_before) / max(sum(map(len, client.values())), 1),
        "longest_during_restart_s": max(during, default=0.0),
        "restart_s": restart[1] - restart[0],
        "server_cores": (spent - spent_before) / wall,
        "server_memory_mb": cost.memory,
        "load": sum(load) / len(load),
        "beside": {one.name: {"cores": one.share(), "start_s": one.before} for one in looked_at},
        "audit": audit(url, folder),
    }
    figures["takeover"] = takeover(url, killed_at, given.lease)
    return figures


WARM = 60.0
"""Seconds after which launcher and watchers have read what was there at the start."""
AFTER = 5.0
"""Seconds after a restart in which calls still wait for their next try."""


def _counts(url: str) -> tuple[int, int, int]:
    with _connection(url) as opened:
        rows = dict(opened.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    return rows.get("done", 0), rows.get("running", 0), rows.get("queued", 0) + rows.get("running", 0)


def _end_early(url: str) -> None:
    with Registry.open(url) as registry:
        registry.sweeps.pause(registry.catalogue.find_sweep(SWEEP).id, "the time is over")


def _connection(url: str) -> Any:
    import psycopg

    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def takeover(url: str, killed_at: float, lease: float) -> dict[str, Any]:
    """How long jobs of killed agents waited: until they were back in the queue, and until somebody claimed them."""
    with _connection(url) as opened:
        rows = opened.execute(
            "SELECT back.at, min(again.at) FROM events back LEFT JOIN events again ON again.job_id = back.job_id "
            "AND again.id > back.id AND again.target = 'running' "
            "WHERE back.source = 'running' AND back.target = 'queued' AND back.at >= %s GROUP BY back.id, back.at",
            (killed_at,),
        ).fetchall()
    if not rows:
        return {"jobs": 0}
    back, again = sorted(row[0] - killed_at for row in rows), sorted(row[1] - killed_at for row in rows if row[1])
    within = sum(one <= 2 * lease for one in again)
    return {
        "jobs": len(rows), "lease_s": lease, "queued_again_s": [back[len(back) // 2], back[-1]],
        "claimed_again_s": [again[len(again) // 2], again[-1]], "claimed_within_two_leases": within,
    }  # fmt: skip


def audit(url: str, folder: Path) -> dict[str, Any]:
    """Everything counted once, by plain SQL and plain pyarrow; the number of files that an answer opens."""
    once = """
        SELECT count(*) FILTER (WHERE done != (state = 'done')::int OR claims != attempt), count(*), sum(claims) FROM (
            SELECT jobs.id, jobs.attempt, jobs.state, count(*) FILTER (WHERE target = 'done') AS done,
                   count(*) FILTER (WHERE target = 'running') AS claims
            FROM jobs LEFT JOIN events ON events.job_id = jobs.id GROUP BY jobs.id, jobs.attempt, jobs.state) each
    """
    twice = """
        SELECT count(*) FROM (
            SELECT target, lag(target) OVER (PARTITION BY job_id ORDER BY id) AS before FROM events) each
        WHERE target = 'running' AND before = 'running'
    """
    with _connection(url) as opened:
        wrong, jobs, claims = opened.execute(once).fetchone()
        ((overlapping,),) = opened.execute(twice).fetchall()
        pointers = {
            (identity, attempt, publication)
            for identity, attempt, publication in opened.execute(
                "SELECT identity, attempt, publication FROM jobs WHERE state = 'done'"
            )
        }
        ((agents,),) = opened.execute("SELECT count(*) FROM agents").fetchall()
    publications = {publication for _, _, publication in pointers}
    missing = repeated = 0
    for publication in publications:
        table = pq.read_table(folder / "results" / "runs" / f"{publication}.parquet", columns=["job", "attempt"])
        rows = [(row["job"], row["attempt"], publication) for row in table.to_pylist()]
        repeated += len(rows) - len(set(rows))
        pointers -= set(rows)
    missing = len(pointers)
    return {
        "jobs": jobs, "not_counted_once": wrong, "claimed_while_held": overlapping, "without_a_row": missing,
        "rows_twice": repeated, "claims": int(claims), "agents": agents, "files_pointed_to": len(publications),
        "files_written": len(list((folder / "results" / "runs").glob("*.parquet"))),
    }  # fmt: skip


def watchers(given: argparse.Namespace) -> dict[str, Any]:
    """A launcher and watchers at a registry of that size, half of it done, on which a few agents work."""
    with server() as one, tempfile.TemporaryDirectory(prefix="qsweep-fleet-home-") as name:
        folder = Path(name)
        url, home = one.url, Home.at(folder, registry=one.url)
        home.prepare()
        jobs = trainings(given.jobs)
        with Registry.open(url, create=True) as registry:
            sweep = registry.sweeps.add(name=SWEEP, label="a", spec="{}", size=len(jobs), written=True)
            registry.sweeps.register(sweep.id, jobs)
            settle_belonging(home, registry)
            options = _options(sweep.id, given)
            _finish_half(home, registry, argparse.Namespace(**options), len(jobs) // 2)
            _hold(registry, sweep.id, given.idle, given.cohort)
        crews = Crews(folder, url, options, given.agents // given.processes)
        for _ in range(given.processes):
            crews.start()
        looked_at = beside(folder, url, given.agents, given.watchers)
        cost = ServerTime(one)
        try:
            time.sleep(WARM)
            for watched in looked_at:
                watched.mark()
            before, began = cost.look(), time.time()
            while time.time() - began < given.length:
                time.sleep(1.0)
                spent = cost.look()
                for watched in looked_at:
                    watched.look()
            busy = (spent - before) / (time.time() - began)
            found = {
                one.name: {"cores": one.share(), "start_s": one.before, "memory_mb": one.memory()} for one in looked_at
            }
            done, running, _ = _counts(url)
        finally:
            crews.kill(crews.living())
            for watched in looked_at:
                watched.end()
    return {"beside": found, "server_cores": busy, "done": done, "running": running, "load": os.getloadavg()[0]}


def _finish_half(home: Home, registry: Registry, given: argparse.Namespace, count: int) -> None:
    """Finishes so many jobs, in publications of a few hundred."""
    agent = SimulatedAgent(home, given, [])
    agent.agent = registry.agents.enlist(
        AgentInfo(host="simulated", pid=1, process_started=0.0, boot_id="", backend="fleet", device="cpu", build="")
    )
    done = 0
    while done < count:
        head = registry.queue.next_cohort(agent.agent, agent.scope)
        assert head is not None
        claims = registry.queue.claim(agent.agent, head, min(500, count - done), agent.scope)
        publication = f"{agent.agent:06d}-{done:012x}"
        agent.store.write("runs", publication, agent._run_rows(claims))
        for kind in ("epochs", "layers"):
            agent.store.write(kind, publication, [])
        finished = [Finished(job_id=one.job_id, attempt=one.attempt, publication=publication) for one in claims]
        done += len(registry.queue.finish(agent.agent, finished).jobs)
    registry.agents.retire(agent.agent)
    agent.registry.close()


def _hold(registry: Registry, sweep: int, agents: int, cohort: int) -> None:
    """So many agents that hold a cohort each, and say what they do, as those of a large fleet do most of the time."""
    for number in range(agents):
        agent = registry.agents.enlist(
            AgentInfo(
                host=f"node{number}",
                pid=1,
                process_started=0.0,
                boot_id="",
                backend="fleet",
                device="cpu",
                build="",
                lease=1e6,
            )
        )
        head = registry.queue.next_cohort(agent, Scope(sweep=sweep))
        if head is not None:
            claims = registry.queue.claim(agent, head, cohort, Scope(sweep=sweep))
            note = {"cohort": head.cohort_key, "jobs": len(claims), "step": 100, "steps": 600}
            registry.queue.beat(agent, json.dumps(note))


def _say(words: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {words}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("fleet", "watchers"), default="fleet")
    parser.add_argument("--name", help="under which the figures are kept; by default the part and its size")
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--cohort", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a cohort takes")
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument("--idle", type=int, default=0, help="of `watchers`: agents that only hold their jobs")
    parser.add_argument("--length", type=float, default=60.0, help="seconds that `watchers` measures")
    parser.add_argument("--at-most", type=float, default=3_000.0, help="seconds after which nothing more is claimed")
    parser.add_argument("--kill-at", type=float, default=0.2, help="share of the jobs done at which half are killed")
    parser.add_argument("--restart-at", type=float, default=0.45, help="and at which the server is restarted")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--role", choices=("launcher",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        launcher(given.folder, given.url, given.agents)
        return
    with tempfile.TemporaryDirectory() as folder:
        fsync = fsync_ms(Path(folder))
    found = {"fleet": fleet, "watchers": watchers}[given.part](given)
    asked = {
        name: getattr(given, name)
        for name in ("agents", "idle", "jobs", "cohort", "seconds", "lease", "processes", "watchers")
    }
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(), "fsync_ms": fsync, "asked": asked, **found,
    }  # fmt: skip
    _say(json.dumps(entry, indent=1))
    content = json.loads(given.output.read_text()) if given.output.is_file() else {}
    content[given.name or f"{given.part} {given.agents} agents {given.jobs} jobs"] = entry
    given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
