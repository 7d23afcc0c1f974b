"""What became of jobs, in plain SQL: attempts, events and curves, of one job or of all. Nothing here changes a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qsweep.db.asking import Asking, named
from qsweep.db.rows import AttemptRow, Curve, EventRow, Record, Standing, Step
from qsweep.db.states import HOLDING, FailureClass, State

OF_AGENT = ("host", "pid", "backend", "device", "log", "beat_at")
"""Columns of an attempt that stand in its agent's row."""
ATTEMPT = {name: f"{'agents' if name in OF_AGENT else 'attempts'}.{name}" for name in AttemptRow.__dataclass_fields__}
EVENT = {name: f"events.{name}" for name in EventRow.__dataclass_fields__}
CURVE = {
    "job": "jobs.identity", "state": "jobs.state", "attempt": "curves.attempt", "content": "jobs.content",
    "epochs": "curves.epochs",
}  # fmt: skip
LOAD = ("processor", "memory", "gpu", "gpu_memory")
UNDONE = "FROM curves JOIN jobs ON jobs.id = curves.job_id WHERE jobs.state != 'done'"
STATES = {state.value: state for state in State}


def attempts(asking: Asking, job_id: int) -> list[AttemptRow]:
    rest = "FROM attempts JOIN agents ON agents.id = attempts.agent_id WHERE attempts.job_id = :job ORDER BY attempt"
    return [_attempt(row) for row in named(asking, ATTEMPT, rest, {"job": job_id})]


def _attempt(values: dict[str, Any]) -> AttemptRow:
    outcome, failure = values["outcome"], values["failure_class"]
    values["outcome"] = None if outcome is None else State(outcome)
    values["failure_class"] = None if failure is None else FailureClass(failure)
    if values["ended_at"] is not None:  # The agent may have lived on with other jobs.
        values["beat_at"] = min(values["beat_at"], values["ended_at"])
    return AttemptRow(**values)


def events(asking: Asking, job_id: int | None, since: int, sweep_id: int | None, limit: int | None) -> list[EventRow]:
    values: dict[str, Any] = {"since": since}
    rest = "FROM events WHERE events.id > :since"
    if job_id is not None:
        rest, values["job"] = f"{rest} AND events.job_id = :job", job_id
    if sweep_id is not None:
        members = "SELECT job_id FROM sweep_jobs WHERE sweep_id = :sweep"
        rest, values["sweep"] = f"{rest} AND events.job_id IN ({members})", sweep_id
    rest += " ORDER BY events.id"
    if limit is not None:
        rest, values["limit"] = f"{rest} LIMIT :limit", limit
    return [
        EventRow(**(row | {"source": STATES[row["source"]], "target": STATES[row["target"]]}))
        for row in named(asking, EVENT, rest, values)
    ]


def curves(asking: Asking, sweep_id: int) -> list[Curve]:
    members = "SELECT job_id FROM sweep_jobs WHERE sweep_id = :sweep"
    rest = f"{UNDONE} AND jobs.id IN ({members}) ORDER BY jobs.id"
    return list(_curves(named(asking, CURVE, rest, {"sweep": sweep_id})))


def curve(asking: Asking, job_id: int) -> list[Curve]:
    return list(_curves(named(asking, CURVE, f"{UNDONE} AND jobs.id = :job", {"job": job_id})))


def _curves(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Iterator[Curve]:
    for row in rows:
        yield Curve(**{**row, "state": State(row["state"]), "epochs": tuple(json.loads(row["epochs"]))})


def loads(asking: Asking, agents: Sequence[int], points: int) -> list[dict[str, Any]]:
    """What these agents used over time: means over so many equal parts of the time since the first reading of any."""
    listed = f"FROM loads WHERE agent_id IN ({', '.join(str(int(one)) for one in agents) or 'NULL'})"
    ((first, last),) = asking.ask(f"SELECT min(at), max(at) {listed}")
    if first is None:
        return []
    part = "CAST((at - :first) * :parts AS INTEGER)"
    means = {name: f"CAST(avg({name}) AS DOUBLE PRECISION)" for name in ("at", *LOAD)}
    values = {"first": first, "parts": points / max(last - first, 1.0)}
    rest = f"{listed} GROUP BY agent_id, {part} ORDER BY agent_id, min(at)"
    return named(asking, {"agent": "agent_id"} | means, rest, values)


def record(asking: Asking) -> Record:
    """All jobs and events as bare tuples: at a million jobs an object of each costs more than the look itself."""
    holding = ", ".join(f"'{state.value}'" for state in HOLDING)
    holders = asking.ask(f"SELECT id FROM agents WHERE state IN ({holding})")
    return Record(jobs=_standings(asking), steps=_steps(asking), holders=frozenset(agent for (agent,) in holders))


def _standings(asking: Asking) -> list[Standing]:
    """All jobs in the order of their registration."""
    rows = asking.ask(f"SELECT {', '.join(Standing._fields)} FROM jobs ORDER BY id")
    return [
        Standing(job, identity, kind, STATES[state], attempt, agent, publication, model)
        for job, identity, kind, state, attempt, agent, publication, model in rows
    ]


def _steps(asking: Asking) -> list[Step]:
    """All events, job after job, those of each in order."""
    rows = asking.ask("SELECT id, job_id, source, target FROM events ORDER BY job_id, id")
    return [Step(event, job, STATES[source], STATES[target]) for event, job, source, target in rows]
