"""The audit of a home: do the events, the jobs and the files tell the same story? Reads only, also beside agents.

The registry is read at one moment, and the files after that: what it points to was there before. Whatever seems to be
lost is asked about once more: a compaction may have moved it, or an agent may be computing it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import pyarrow as pa

from qsweep.db.belonging import check_belonging
from qsweep.db.columns import column
from qsweep.db.digests import digest_problems
from qsweep.db.home import Home
from qsweep.db.losses import Lost, counted, find_lost, find_lost_models
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import EventRow, JobRow, Record, Standing, Step
from qsweep.db.states import TRANSITIONS, State

SHOWN = 20
"""Violations that are listed."""
NAMED = 8
"""Jobs that are named of each file that is lost."""
LOOKS = 5
"""How often is asked again about results that seem to be lost and have moved meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an audit found: broken laws in words, and results and models that are lost."""

    broken: list[str]
    lost: list[Lost]

    @property
    def is_sound(self) -> bool:
        return not self.broken and not self.lost

    def lines(self, *, named: int | None = None) -> list[str]:
        """Every finding, one line a law and one a file, which names that many of its jobs (or all)."""
        files: dict[tuple[str, str, str], list[str]] = {}
        for one in self.lost:
            files.setdefault((one.kind, one.file, one.why), []).append(one.job[:12])
        return self.broken + [
            f"{kind} of {counted(jobs)}: {file} {why}: {_listed(jobs, named)}"
            for (kind, file, why), jobs in files.items()
        ]


def audit(home: Home, *, deep: bool = False) -> list[str]:
    """Every violation found, in words; empty if the registry and the results are sound. `deep`: the content of models
    and checkpoints too.

    Raises InputError if there is no registry.
    """
    with Registry.open(home.registry) as registry:
        problems = examine(home, registry, deep=deep).lines(named=NAMED)
    shown = problems[:SHOWN]
    return shown + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])


def examine(home: Home, registry: Registry, *, deep: bool = False) -> Findings:
    """The whole audit; with `deep`, of the content of models and checkpoints too. Raises InputError if the registry
    counts the results of another home."""
    check_belonging(home, registry)
    record = registry.history.record()
    broken = [*_broken(record), *(digest_problems(home, registry) if deep else ())]
    return Findings(broken=broken, lost=_lost(home, registry, record.jobs))


def repair(home: Home, registry: Registry, lost: Sequence[Lost]) -> int:
    """Takes the jobs that have lost one of these back into the queue, with their children; how many jobs changed.

    Whether it is still lost is looked at again: somebody may have computed it since.
    """
    rows = {row.identity: row for row in registry.history.record().jobs}
    asked = {(one.job, one.kind) for one in lost}
    reasons: dict[str, list[int]] = {}
    for one in _lost(home, registry, [rows[job] for job in sorted({one.job for one in lost}) if job in rows]):
        if (one.job, one.kind) in asked:
            reasons.setdefault(f"what it found is lost: {one.file} {one.why}", []).append(rows[one.job].id)
    return sum(registry.sweeps.invalidate(jobs, reason) for reason, jobs in reasons.items())


def _broken(record: Record) -> Iterator[str]:
    told = {job: tuple(steps) for job, steps in groupby(record.steps, attrgetter("job_id"))}
    for row in record.jobs:
        yield from job_problems(row, told.get(row.id, ()), record.holders)


def job_problems(
    row: JobRow | Standing, events: Iterable[EventRow | Step], alive: frozenset[int] | set[int]
) -> Iterator[str]:
    """What is wrong with one job: its events have to be a path of allowed steps to where it stands."""
    name = f"job {row.identity[:12]}"
    state, claims, finishes = State.QUEUED, 0, 0
    for event in events:
        if event.source is not state:
            yield f"{name}: event {event.id} leaves {event.source} while the job was {state}"
        if (event.source, event.target) not in TRANSITIONS and event.source is not event.target:
            yield f"{name}: event {event.id} goes from {event.source} to {event.target}, which no job may"
        state = event.target
        claims += (event.source, event.target) == (State.QUEUED, State.RUNNING)
        finishes += event.target is State.DONE
        finishes -= event.source is State.DONE
    if state is not row.state:
        yield f"{name}: is {row.state}, but its events end at {state}"
    if claims != row.attempt:
        yield f"{name}: is at attempt {row.attempt}, but was claimed {claims} times"
    if finishes != (row.state is State.DONE):
        yield f"{name}: is {row.state}, but counts {finishes} times"
    if row.state is State.RUNNING and row.agent_id not in alive:
        yield f"{name}: runs under agent {row.agent_id}, which is not alive"
    if (row.state is State.DONE) != (row.publication is not None):
        yield f"{name}: is {row.state} with publication {row.publication}"


def _lost(home: Home, registry: Registry, rows: Sequence[JobRow | Standing]) -> list[Lost]:
    """Every pointer has to lead to exactly one row, and every kept model to its file."""
    store = ResultStore(home.store)
    ids = {row.identity: row.id for row in rows}
    lost = [*find_lost(store, pointers_of(rows)), *find_lost_models(home, rows)]
    for _ in range(LOOKS):
        if not lost:
            return []
        before = {row.identity: row for row in rows}
        rows = registry.catalogue.jobs_of([ids[job] for job in sorted({one.job for one in lost})])
        lost = [*find_lost(store, pointers_of(rows)), *find_lost_models(home, rows)]
        if all(_points(row) == _points(before[row.identity]) for row in rows):
            break
    return lost


def _points(row: JobRow | Standing) -> tuple[object, ...]:
    return row.state, row.attempt, row.publication, row.model_file


def pointers_of(rows: Iterable[JobRow | Standing]) -> pa.Table:
    """The pointers of the done jobs among these, as `Registry.pointers` has them."""
    done = [row for row in rows if row.state is State.DONE and row.publication is not None]
    return pa.table(
        {
            "job": column([row.identity for row in done], pa.string()),
            "attempt": column([row.attempt for row in done], pa.int64()),
            "publication": column([row.publication for row in done], pa.string()),
            "kind": column([row.kind for row in done], pa.string()),
        }
    )


def _listed(jobs: Sequence[str], named: int | None) -> str:
    some = jobs if named is None else jobs[:named]
    return ", ".join(some) + (f" and {len(jobs) - len(some)} more" if len(some) < len(jobs) else "")
