"""The audit of a home: do the events, the jobs and the files tell the same story? Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from db.digests import digest_problems
from db.home import Home
from db.registry import Registry
from db.results import DamagedResults, ResultStore
from db.rows import EventRow, JobRow
from db.schema import KINDS
from db.states import HOLDING, TRANSITIONS, State

SHOWN = 20
"""Violations of one kind that are listed."""


def audit(home: Home, *, deep: bool = False) -> list[str]:
    """Every violation found, in words; empty if the registry and the results are sound. `deep`: the content of models
    and checkpoints too.

    Raises InputError if there is no registry.
    """
    with Registry.open(home.registry) as registry:
        jobs = {row.id: row for sweep in registry.sweeps() for row in registry.jobs(sweep.id)}
        alive = {agent.id for state in HOLDING for agent in registry.agents(state)}
        events: dict[int, list[EventRow]] = {}
        for event in registry.events():
            events.setdefault(event.job_id, []).append(event)
        problems = [problem for row in jobs.values() for problem in job_problems(row, events.get(row.id, []), alive)]
        for sweep in registry.sweeps():
            problems += list(_result_problems(home, registry, sweep.id))
        problems += digest_problems(home, registry) if deep else ()
    shown = problems[:SHOWN]
    return shown + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])


def job_problems(row: JobRow, events: Iterable[EventRow], alive: set[int]) -> Iterator[str]:
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


def _result_problems(home: Home, registry: Registry, sweep_id: int) -> Iterator[str]:
    """Every pointer has to lead to exactly one row, and every kept model to its file."""
    committed = registry.committed(sweep_id)
    for kind in (one.name for one in KINDS.values() if one.one_row_a_job):
        try:
            ResultStore(home.store).read(kind, committed, columns=["job"])
        except DamagedResults as error:
            yield str(error)
    for row in registry.jobs(sweep_id, state=State.DONE):
        if row.model_file and not (home.models / row.model_file).is_file():
            yield f"job {row.identity[:12]}: its model {row.model_file} is gone"
