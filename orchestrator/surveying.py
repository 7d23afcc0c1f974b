"""Loss landscapes of kept models on this machine: which models are meant, and their points shared out to processes."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import State
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.machine import Machine
from qsweep.reports.landscape.grid import Grid, file_name, read_grid, write_grid
from qsweep.reports.quantization import quantization_of
from qsweep.sweeps import processes
from qsweep.sweeps.code import code_origin
from qsweep.sweeps.errors import InputError, QsweepError, raise_packed
from qsweep.sweeps.kinds import File, kind_named
from qsweep.sweeps.landscape import PLANE, Landscape
from qsweep.sweeps.spec import matching

KEEP = (
    'launch a sweep with keep = "all" that holds it, then train it again: qsweep invalidate NAME --where EXPR '
    "--reason 'its model is needed'"
)
"""How to come by a model that was not kept."""
PART = 64
"""Points of one task, at most."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One landscape: what is asked, of which trained models, and the file that it will stand in."""

    asked: Landscape
    rows: tuple[JobRow, ...]
    folder: Path

    @property
    def identity(self) -> str:
        return self.asked.identity([(row.identity, row.attempt, row.model_hash or "") for row in self.rows])

    @property
    def jobs(self) -> tuple[str, ...]:
        return tuple(row.identity for row in self.rows)

    @property
    def precision(self) -> str:
        return " → ".join(str(quantization_of(row.job.settings())) for row in self.rows)

    @property
    def path(self) -> Path:
        return self.folder / f"{file_name(self.precision, self.jobs, self.identity)}.parquet"

    def found(self) -> Grid | None:
        """The landscape, if an earlier run wrote it."""
        try:
            grid = read_grid(self.path)
        except ValueError:
            return None
        return grid if grid.identity == self.identity else None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Trained models whose landscape can be computed, and what has to be said of those that were left out."""

    rows: tuple[JobRow, ...]
    notes: tuple[str, ...]


def choose_models(
    home: Home, registry: Registry, targets: Sequence[str], *, where: str | None = None, limit: int | None = None
) -> Chosen:
    """The kept models of these jobs and sweeps, in their order. Raises InputError for what there is no model of."""
    launched = {title for sweep in registry.sweeps() for title in (sweep.name, sweep.title)}
    rows: dict[str, JobRow] = {}
    notes: list[str] = []
    for target in targets:
        if target not in launched and set(target) <= set("0123456789abcdef"):
            row = registry.job(target)
            rows[row.identity] = trained_model(home, row)
            continue
        sweep = registry.find_sweep(target)
        members = {row.identity: row for row in registry.jobs(sweep.id) if _makes_model(row)}
        if where is not None and members:
            admitted = matching([row.job for row in members.values()], where)
            members = {job.identity: members[job.identity] for job in admitted}
        kept = {name: row for name, row in members.items() if row.state is State.DONE and row.model_file}
        if not kept:
            raise InputError(_why_none(members), place=sweep.title, allowed="landscapes are those of kept models")
        if left := len(members) - len(kept):
            notes.append(f"{sweep.title}: {left} of {len(members)} trainings left out, without a model (yet)")
        rows |= {name: trained_model(home, row) for name, row in list(kept.items())[:limit]}
    return Chosen(rows=tuple(rows.values()), notes=tuple(notes))


def _makes_model(row: JobRow) -> bool:
    return kind_named(row.kind).leaves is File.MODEL


def trained_model(home: Home, row: JobRow) -> JobRow:
    """This job, if its trained model is there. Raises InputError that says why not."""
    place = f"job {row.identity[:12]}"
    if not _makes_model(row):
        raise InputError(f"a {kind_named(row.kind).noun} makes no model", place=place, allowed="name the training")
    if row.state is not State.DONE:
        raise InputError(f"it is {row.state.value}, and has no model yet", place=place)
    if row.diverged:
        raise InputError("its training diverged: there is no model", place=place)
    if row.model_file is None:
        raise InputError("its model was not kept", place=place, allowed=KEEP)
    if not (home.models / row.model_file).is_file():
        raise InputError("the file of its model is not there", place=str(home.models / row.model_file))
    return row


def _why_none(members: dict[str, JobRow]) -> str:
    done = [row for row in members.values() if row.state is State.DONE]
    if not members:
        return "no training is meant"
    if not done:
        return "no training that is meant is done yet"
    return "every training that is meant diverged" if all(row.diverged for row in done) else "no model was kept"


def survey(
    home: Home, machine: Machine, wanted: Sequence[Wanted], *, agents: int, tell: Callable[[int], None]
) -> Iterator[Grid]:
    """Compute landscapes, in this order; each is written as soon as it is whole. `tell` hears of points computed."""
    most = sum(-(-one.asked.size // PART) for one in wanted)
    agents = max(1, min(agents, most if len(wanted) > 1 else wanted[0].asked.size))
    with _surveyors(home, machine, agents) as ask:
        parts = [_ask_parts(ask, one, agents, tell) for one in wanted]
        for one, answers in zip(wanted, parts, strict=True):
            grid = _joined(one, [answer.result() for answer in answers])
            write_grid(grid, one.path)
            yield grid


Ask = Callable[[dict[str, Any], Callable[[], None]], "Future[dict[str, Any]]"]


def _ask_parts(ask: Ask, one: Wanted, agents: int, tell: Callable[[int], None]) -> list[Future[dict[str, Any]]]:
    task = {
        "identity": one.identity,
        "landscape": one.asked.settings(),
        "models": [
            {"settings": row.job.training.settings(), "file": row.model_file, "hash": row.model_hash}
            for row in one.rows
        ],
    }
    size = one.asked.size
    step = min(PART, -(-size // agents))
    parts = [(first, min(step, size - first)) for first in range(0, size, step)]
    return [ask({**task, "first": first, "count": count}, lambda n=count: tell(n)) for first, count in parts]  # type: ignore[misc]


def _joined(one: Wanted, answers: Sequence[dict[str, Any]]) -> Grid:
    losses = [loss for answer in answers for loss in answer["losses"]]
    accuracies = [accuracy for answer in answers for accuracy in answer["accuracies"]]
    shape = (one.asked.points,) * (2 if one.asked.view == PLANE else 1)
    last = answers[-1]
    return Grid(
        asked=one.asked,
        identity=one.identity,
        jobs=one.jobs,
        trainings=tuple(row.job.training for row in one.rows),
        loss=np.array(losses, dtype=np.float64).reshape(shape),
        accuracy=np.array(accuracies, dtype=np.float64).reshape(shape),
        provenance={
            "attempts": [row.attempt for row in one.rows],
            "models": [row.model_hash for row in one.rows],
            "cosine": last["cosine"],
            "images": last["images"],
            "full_pass": last["full_pass"],
            "code": code_origin(),
            "torch": last["torch"],
            "device": last["device"],
            "host": socket.gethostname(),
            "seconds": sum(answer["seconds"] for answer in answers),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


@contextmanager
def _surveyors(home: Home, machine: Machine, agents: int) -> Iterator[Ask]:
    """That many processes, each of which answers one task after another; all are gone at the end."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(home, machine, number)) for number in range(agents)]
        free: SimpleQueue[tuple[subprocess.Popen[str], IO[str]]] = SimpleQueue()
        for one in processes:
            free.put(one)
        threads = ThreadPoolExecutor(agents)
        stack.callback(threads.shutdown, wait=True, cancel_futures=True)
        for process, _ in processes:
            stack.callback(process.kill)

        def answer(task: dict[str, Any], over: Callable[[], None]) -> dict[str, Any]:
            process, log = free.get()
            try:
                found = _answered(process, log, task)
            finally:
                free.put((process, log))
            over()
            return found

        yield lambda task, over: threads.submit(answer, task, over)


@contextmanager
def _process(home: Home, machine: Machine, number: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """One process with a session of its own, so that Ctrl-C reaches the command alone; and what it writes to stderr."""
    command = [*processes.PYTHON, "qsweep.workers.landscape", "--data", str(home.data), "--models", str(home.models)]
    gpu = number % machine.gpus if machine.gpus else None
    with tempfile.TemporaryFile("w+") as log:
        process = processes.start(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            errors="replace",
            env=worker_environment(home, threads=1, gpu=gpu),
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.communicate()


def _answered(process: subprocess.Popen[str], log: IO[str], task: dict[str, Any]) -> dict[str, Any]:
    """What the process answers. Raises QsweepError if it can't, or dies."""
    assert process.stdin is not None
    assert process.stdout is not None
    line = ""
    try:
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        pass
    if not line.endswith("\n"):  # nothing, or half an answer
        code = process.wait()
        log.seek(0)
        raise QsweepError(f"a process of the landscape died ({code}):\n{log.read().strip()[-2000:]}")
    found: dict[str, Any] = json.loads(line)
    raise_packed(found)
    return found
