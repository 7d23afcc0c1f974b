"""One trial: a small sweep, launched again and again by the command line while the saboteur is at work."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from qsweep.sweeps import processes
from qsweep.workers.environment import KEEP_MEMORY
from tests.conftest import PRELOADED, SURROUNDINGS
from tests.fault.checker import Found, differences, look, violations
from tests.fault.sabotage import Fault, Saboteur

SWEEP = """
title = "Faults"
tables = ["table1"]
[fixed]
data = "digits"
model = "nin"
channels_per_width = 2
depth = 2
weight_decay = 0.0
optimizer = "sgd"
momentum = 0.9
epochs = 20
batch_size = 64
[axes]
width = [2, 3]
bits = [32, 4]
learning_rate = [0.02, 0.01]
"""
"""8 trainings of 460 steps in two cohorts."""
CHECKPOINT_STEPS = 40
LEASE = 3.0
LAUNCHES = 60
SLACK = 1.1
CLOCK = Path(__file__).with_name("clock.c")
QSWEEP = (sys.executable, "-m", "qsweep.orchestrator.cli")


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where the registry of a trial lies, and what can be done to it."""

    name: str
    url: str | None = None
    """None: the SQLite file of the home."""
    conninfo: str | None = None
    restart: Callable[[], None] | None = None
    drop: Callable[[], None] | None = None


@dataclass(kw_only=True)
class Outcome:
    """What became of a trial."""

    table: str
    found: Found
    fired: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    launches: int = 0
    retries: int = 0
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run_trial(
    folder: Path, plan: list[Fault], database: Database, *, reference: Outcome | None, patience: float = 900.0
) -> Outcome:
    """Launch until done, then check. `folder` must be new."""
    folder.mkdir(parents=True)
    sockets = Path(tempfile.mkdtemp(prefix="qsf-"))
    (folder / "faults.toml").write_text(SWEEP)
    (folder / "clock").write_text("0")
    saboteur = Saboteur(
        socket=sockets / "s",
        plan=list(plan),
        lease=LEASE,
        clock=folder / "clock",
        database_file=folder / "home" / "registry.db",
        restart_database=database.restart,
        drop_connections=database.drop,
    )
    environment = trial_environment(folder, saboteur.socket, database)
    started = time.monotonic()
    try:
        launches, retries, problems = _launch_until_done(folder, environment, saboteur, started + patience)
        saboteur.settle()
        problems += _await_agents(environment)
    finally:
        _end_agents(environment)
        saboteur.close()
        shutil.rmtree(sockets)
    table = _qsweep(folder, environment | {"QSWEEP_FAULTS": ""}, "tables", "faults")
    found = look(database.conninfo or folder / "home" / "registry.db", folder / "home" / "results")
    outcome = Outcome(
        table=table.stdout,
        found=found,
        fired=saboteur.fired,
        launches=launches,
        retries=retries,
        steps=saboteur.steps,
        seconds=time.monotonic() - started,
        notes=saboteur.notes,
    )
    outcome.violations = problems + violations(found)
    if reference is not None:
        outcome.violations += compare(outcome, reference)
    return outcome


def trial_environment(folder: Path, socket: Path, database: Database) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QSWEEP_")}
    own = {
        "QSWEEP_HOME": str(folder / "home"),
        "QSWEEP_FAULTS": str(socket),
        "QSWEEP_CHECKPOINT_STEPS": str(CHECKPOINT_STEPS),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    if clock_shim() is not None:
        own |= {"LD_PRELOAD": str(clock_shim()), "QSWEEP_TEST_CLOCK": str(folder / "clock")}
    return kept | own | ({} if database.url is None else {"QSWEEP_REGISTRY": database.url})


@functools.cache
def clock_shim() -> Path | None:
    """The library under which a process's wall clock jumps, made once; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="qsc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "clock.so", CLOCK], check=True)
    return folder / "clock.so"


@contextmanager
def forked() -> Iterator[None]:
    """Within it, the processes of trials are forked where the clock jumps, and none is started cold."""
    surroundings = {**SURROUNDINGS, **KEEP_MEMORY, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if (shim := clock_shim()) is None:
        yield
        return
    server = processes.ForkServer.started(PRELOADED, surroundings | {"LD_PRELOAD": str(shim)})
    before = processes.served_by()
    processes.be_served_by(server)
    try:
        yield
    finally:
        processes.be_served_by(before)
        server.close()


def _qsweep(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return processes.run(
        [*QSWEEP, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


def _launch_until_done(
    folder: Path, environment: Mapping[str, str], saboteur: Saboteur, deadline: float
) -> tuple[int, int, list[str]]:
    """As a patient user does: launch again whenever it ends, retry what failed."""
    launch = [*QSWEEP, "launch", "faults.toml", "--workers", "2", "--lease", str(LEASE)]
    launches = retries = 0
    while launches < LAUNCHES:
        launches += 1
        log = folder / f"launch-{launches}.log"
        with log.open("wb") as output:
            process = processes.start(launch, env=environment, cwd=folder, stdout=output, stderr=output)
        try:
            process.wait(max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return launches, retries, [f"launch {launches} did not end in time; see {log}"]
        said = log.read_text(errors="replace")
        saboteur.notes.append(f"launch {launches} ended with {process.returncode}")
        if process.returncode == 0:
            return launches, retries, []
        if process.returncode == 1 and "failed; see" in said:
            retries += 1
            _qsweep(folder, {**environment, "QSWEEP_FAULTS": ""}, "retry", "faults", "--state", "failed")
        if "Traceback" in said:
            return launches, retries, [f"launch {launches} ended with a traceback: {said[-1500:]}"]
    return launches, retries, [f"not done after {launches} launches; see {folder}"]


def agents_of(environment: Mapping[str, str]) -> list[psutil.Process]:
    """Every process that still works in this trial's home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if (
                process.environ().get("QSWEEP_HOME") == environment["QSWEEP_HOME"]
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def _await_agents(environment: Mapping[str, str]) -> list[str]:
    """Zombies and orphans have to notice by themselves that nothing is left for them."""
    deadline = time.monotonic() + 600
    while (left := agents_of(environment)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"process {one.pid} is still there: {' '.join(one.cmdline())[:120]}" for one in left]


def _end_agents(environment: Mapping[str, str]) -> None:
    for process in agents_of(environment):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
            process.kill()


def compare(outcome: Outcome, reference: Outcome) -> list[str]:
    """What differs from the uninterrupted run, and work that was done too often."""
    problems = differences(outcome.found, reference.found)
    if outcome.table != reference.table:
        problems.append("Table 1 is not byte-identical to the uninterrupted run's")
    cohort = len(outcome.found.jobs) // 2
    allowed = SLACK * outcome.found.steps_needed + len(outcome.fired) * CHECKPOINT_STEPS * cohort
    if outcome.steps > allowed:
        problems.append(f"{outcome.steps} steps were made, at most {allowed:.0f} are allowed")
    late = ("checkpoint.recorded", "parquet.written", "parquet.renamed", "finish.uncommitted")
    killed = any(fault.action in ("kill", "kill both") and fault.point in late for fault in outcome.fired)
    if killed and not outcome.found.resumed:
        problems.append("nothing was resumed from a checkpoint")
    return problems
