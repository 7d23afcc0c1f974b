"""Loss landscapes of kept models on this machine: which models are meant, and their points shared out to processes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import State
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.machine import Machine
from qsweep.reports.landscape.grid import Grid, file_name, read_grid, write_grid
from qsweep.reports.quantization import quantization_of
from qsweep.sweeps.code import code_origin
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import QUANTIZATION, File, kind_named
from qsweep.sweeps.landscape import PLANE, Landscape
from qsweep.sweeps.questions import LandscapePoints
from qsweep.sweeps.service import Service
from qsweep.sweeps.settings import Setting
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
    launched = {title for sweep in registry.catalogue.sweeps() for title in (sweep.name, sweep.title)}
    rows: dict[str, JobRow] = {}
    notes: list[str] = []
    for target in targets:
        if target not in launched and set(target) <= set("0123456789abcdef"):
            row = registry.catalogue.job(target)
            rows[row.identity] = trained_model(home, row)
            continue
        sweep = registry.catalogue.find_sweep(target)
        members = {row.identity: row for row in registry.catalogue.jobs(sweep.id) if _makes_model(row)}
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


def check_quantized(rows: Sequence[JobRow]) -> bool:
    """Whether models were quantized on images. Raises InputError if there is no line between them for that."""
    widths = {row.job.settings()["activation_bits"] if row.job.kind is QUANTIZATION else None for row in rows}
    if len(widths) > 1:
        raise InputError(
            "the activations of the two models are rounded to different levels, which have no line between them",
            place="--between",
            allowed="two models of trainings, or two that were quantized on images to one activation_bits",
        )
    return widths != {None}


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
        parts = [_ask_parts(ask, home, one, agents, tell) for one in wanted]
        for one, answers in zip(wanted, parts, strict=True):
            grid = _joined(one, [answer.result() for answer in answers])
            write_grid(grid, one.path)
            yield grid


Ask = Callable[[LandscapePoints, Callable[[], None]], "Future[dict[str, Any]]"]


def _ask_parts(
    ask: Ask, home: Home, one: Wanted, agents: int, tell: Callable[[int], None]
) -> list[Future[dict[str, Any]]]:
    whole = LandscapePoints(
        identity=one.identity,
        data=str(home.data),
        models=str(home.models),
        landscape=one.asked.settings(),
        trained=[
            {
                "settings": row.job.training.settings(),
                "file": row.model_file,
                "hash": row.model_hash,
                "quantized": row.job.kind is QUANTIZATION,
            }
            for row in one.rows
        ],
        first=0,
        count=one.asked.size,
        user_code=str(home.user_code),
    )
    step = min(PART, -(-whole.count // agents))
    parts = [replace(whole, first=first, count=min(step, whole.count - first)) for first in range(0, whole.count, step)]
    return [ask(part, partial(tell, part.count)) for part in parts]


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
        quantized=tuple(_beside(row.job) for row in one.rows),
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


def _beside(job: Job) -> dict[str, Setting]:
    """The settings of a job beside those of its training."""
    own = job.training.settings()
    return {name: value for name, value in job.settings().items() if name not in own}


@contextmanager
def _surveyors(home: Home, machine: Machine, agents: int) -> Iterator[Ask]:
    """That many processes, each of which answers one question after another; all are gone at the end."""
    with ExitStack() as stack:
        services = [stack.enter_context(_service(home, machine, number)) for number in range(agents)]
        free: SimpleQueue[Service] = SimpleQueue()
        for one in services:
            free.put(one)
        threads = ThreadPoolExecutor(agents)
        stack.callback(threads.shutdown, wait=True, cancel_futures=True)
        for one in services:
            stack.callback(one.kill)

        def answer(question: LandscapePoints, over: Callable[[], None]) -> dict[str, Any]:
            service = free.get()
            try:
                found = service.ask(question)
            finally:
                free.put(service)
            over()
            return found

        yield lambda question, over: threads.submit(answer, question, over)


def _service(home: Home, machine: Machine, number: int) -> Service:
    gpu = number % machine.gpus if machine.gpus else None
    return Service(worker_environment(home, threads=1, gpu=gpu), failing="computing a landscape")
