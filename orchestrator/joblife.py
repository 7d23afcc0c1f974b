"""The whole life of one job, in words and for JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qsweep.db.columns import rows_of
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore
from qsweep.db.rows import AgentRow, AttemptRow, Committed, Curve, EventRow, JobRow
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import State
from qsweep.orchestrator.joblist import RESULTS, state_text
from qsweep.orchestrator.layout import duration
from qsweep.orchestrator.lost_jobs import Losses, lost_agents
from qsweep.sweeps.kinds import kind_named


@dataclass(frozen=True, kw_only=True)
class Life:
    """What is known of a job. `results` is its counted row, or the reason why that can't be read."""

    job: JobRow
    attempts: Sequence[AttemptRow]
    events: Sequence[EventRow]
    results: Mapping[str, Any] | str
    epochs: Sequence[Mapping[str, Any]]
    model: Path | None
    lost: AgentRow | None
    """The agent that holds it and is gone."""

    def content(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "job": asdict(self.job) | {"lost": self.lost is not None},
            "results": self.results if isinstance(self.results, Mapping) else {},
            "model": None if self.model is None else str(self.model),
            "epochs": [dict(row) for row in self.epochs],
            "attempts": [asdict(one) for one in self.attempts],
            "events": [asdict(one) for one in self.events],
        }

    def lines(self) -> Iterator[str]:
        """All of it in words."""
        row = self.job
        lost = () if self.lost is None else (self.lost.id,)
        yield f"job       {row.identity}"
        yield f"state     {state_text(row, lost)}, attempt {row.attempt}"
        if self.lost is not None:
            yield f"lost      {Losses(jobs=1, agents=(self.lost,)).cause()}; `qsweep resume` runs it again"
        for key, value in row.job.settings().items():
            yield f"  {key:<20}{value}"
        yield from self._found()
        for one in self.attempts:
            yield from self._attempt(one)
        for event in self.events:
            at = datetime.fromtimestamp(event.at).isoformat(" ", "seconds")
            yield f"{at}  {event.source.value} → {event.target.value}  {event.detail}".rstrip()

    def _found(self) -> Iterator[str]:
        if isinstance(self.results, str):
            yield f"results   {self.results}"
        else:
            there = {name: self.results[name] for name in RESULTS if self.results.get(name) is not None}
            there |= json.loads(self.results.get("returned") or "{}")
            if there:
                yield "results"
            for name, value in there.items():
                yield f"  {name:<20}{value:.6g}" if isinstance(value, float) else f"  {name:<20}{value}"
        if self.epochs:
            yield self._curve()
        if self.model is not None:
            yield f"model     {self.model}"

    def _curve(self) -> str:
        """How far the training came, and where its loss stopped being a number."""
        last = self.epochs[-1]
        of = self.job.job.training.recipe.epochs
        text = f"epochs    {len(self.epochs)} of {of}"
        if self.job.state is State.DONE and len(self.epochs) < of:
            return f"{text}: the training loss was no finite number in epoch {last['epoch']}, and it ended there"
        loss = last.get("train_loss")
        return f"{text}, training loss of the last: {'not finite' if loss is None else f'{loss:.4f}'}"

    def _attempt(self, one: AttemptRow) -> Iterator[str]:
        gone = self.lost is not None and one.ended_at is None
        ended = one.failure_class or one.outcome or ("lost" if gone else "running")
        took = "" if one.ended_at is None else f" after {duration(max(one.ended_at - one.started_at, 0.0))}"
        yield f"attempt {one.attempt} on {one.host} (agent {one.agent_id}): {ended}{took}, log {one.log}"
        if one.error:
            yield "  " + one.error.strip().replace("\n", "\n  ")


def life_of(home: Home, registry: Registry, row: JobRow) -> Life:
    """All that is known of this job. Changes nothing."""
    lost = lost_agents(registry.catalogue.agents())
    results, epochs = _results(home, row)
    return Life(
        job=row,
        attempts=registry.history.attempts(row.id),
        events=registry.history.events(row.id),
        results=results,
        epochs=epochs or [epoch for curve in registry.history.curve(row.id) for epoch in _marked(curve)],
        model=home.models / row.model_file if row.model_file else None,
        lost=lost.get(row.agent_id) if row.state is State.RUNNING and row.agent_id is not None else None,
    )


def _marked(curve: Curve) -> Iterator[dict[str, Any]]:
    for epoch in curve.epochs:
        yield {"attempt": curve.attempt, "final": False, **epoch}


def _results(home: Home, row: JobRow) -> tuple[dict[str, Any] | str, list[dict[str, Any]]]:
    """Its counted row and its counted epochs."""
    if row.state is not State.DONE:
        return {}, []
    assert row.publication is not None
    kind = kind_named(row.kind)
    pointers = [Committed(job=row.identity, attempt=row.attempt, publication=row.publication, kind=kind)]
    store, kinds = ResultStore(home.store), [one.name for one in ROW_KINDS.values() if one.one_row_a_job]
    try:
        found = [one for name in kinds for one in rows_of(store.read(name, pointers))]
        epochs = [{"final": True, **one} for one in rows_of(store.read("epochs", pointers))]
    except DamagedResults as error:
        return f"can't be read: {error}", []
    return (found[0] if found else {}), epochs
