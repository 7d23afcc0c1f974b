"""The independent checker: reads the registry's tables and the Parquet files by itself, and says what is wrong.

It shares no code with the product: plain SQL through the driver, plain pyarrow on the files.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

EXACT = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "weight_norm", "distance", "chosen_epoch")
"""Result columns that must have the same bits as in an uninterrupted run."""


@dataclass
class Found:
    """What lies in a registry and its result folder."""

    jobs: list[dict[str, Any]]
    events: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    agents: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The rows of each file of `results/runs`, by publication."""
    checkpoints: int = 0

    @property
    def resumed(self) -> int:
        """Attempts that went on from a step above 0."""
        return sum(one["resumed_from"] > 0 for one in self.attempts)

    @property
    def steps_needed(self) -> int:
        return sum(steps_of(json.loads(job["content"])) for job in self.jobs)

    def results(self) -> dict[str, dict[str, Any]]:
        """The counted row of each job."""
        found = {}
        for job in self.jobs:
            for row in self.rows.get(job["publication"], []):
                if (row["job"], row["attempt"]) == (job["identity"], job["attempt"]):
                    found[job["identity"]] = row
        return found


def steps_of(content: dict[str, Any]) -> int:
    """Optimizer steps of one job on the digits: 1,442 training images."""
    settings = content["settings"]
    return int(-(-1442 // settings["batch_size"]) * settings["epochs"])


def look(database: Path | str, results: Path) -> Found:
    """Read everything: a SQLite file, or a Postgres by its connection string."""
    tables = {name: _rows(database, name) for name in ("jobs", "events", "attempts", "agents")}
    files = sorted((results / "runs").glob("*.parquet"))
    rows = {file.stem: pq.read_table(file).to_pylist() for file in files if not file.name.startswith(".")}
    return Found(**tables, rows=rows)


def _rows(database: Path | str, table: str) -> list[dict[str, Any]]:
    order = {"attempts": "job_id, attempt"}.get(table, "id")
    connection: Any
    if isinstance(database, Path):
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    else:
        import psycopg

        connection = psycopg.connect(database)
    try:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        connection.close()


def violations(found: Found) -> list[str]:
    """Everything that is wrong by the events and the files alone."""
    events = defaultdict(list)
    for event in found.events:
        events[event["job_id"]].append(event)
    problems = []
    for job in found.jobs:
        problems += list(_leases(job, events[job["id"]]))
        problems += list(_counted_once(job, events[job["id"]], found))
    return problems + list(_agents(found))


def _leases(job: dict[str, Any], events: list[dict[str, Any]]) -> Iterator[str]:
    """Mutual exclusion: between two claims of a job its holder has let go, and only the holder finishes."""
    holder: tuple[int, int] | None = None
    last = 0
    for event in events:
        if event["target"] == "running":
            if holder is not None:
                yield f"job {job['id']}: agent {event['agent_id']} claimed it while agent {holder[0]} held it"
            if event["attempt"] != last + 1:
                yield f"job {job['id']}: attempt {event['attempt']} follows {last}"
            holder, last = (event["agent_id"], event["attempt"]), event["attempt"]
        elif event["source"] == "running":
            by = (event["agent_id"], event["attempt"])
            if holder is None or event["attempt"] != holder[1] or (by != holder and event["target"] == "done"):
                yield f"job {job['id']}: {event['target']} by {by}, but {holder} held it"
            holder = None


def _counted_once(job: dict[str, Any], events: list[dict[str, Any]], found: Found) -> Iterator[str]:
    """Completeness: the job is done, by one event, and its pointer leads to exactly one row."""
    if job["state"] != "done":
        yield f"job {job['id']} is {job['state']}"
        return
    finishes = [event for event in events if event["target"] == "done"]
    if len(finishes) != 1:
        yield f"job {job['id']} was finished {len(finishes)} times"
    claims = [event for event in events if event["target"] == "running"]
    if job["attempt"] != len(claims) or finishes[-1]["attempt"] != job["attempt"]:
        yield f"job {job['id']}: attempt {job['attempt']} counts, {len(claims)} claims were made"
    rows = [row for row in found.rows.get(job["publication"], []) if row["job"] == job["identity"]]
    if [row["attempt"] for row in rows] != [job["attempt"]]:
        yield f"job {job['id']}: {job['publication']} holds attempts {[row['attempt'] for row in rows]} of it"


def _agents(found: Found) -> Iterator[str]:
    """No attempt is left open, and none was ended twice."""
    for one in found.attempts:
        if one["ended_at"] is None or one["outcome"] is None:
            yield f"job {one['job_id']}: attempt {one['attempt']} has no end"
    done = Counter(one["job_id"] for one in found.attempts if one["outcome"] == "done")
    yield from (f"job {job}: {count} attempts ended done" for job, count in done.items() if count > 1)


def differences(found: Found, reference: Found) -> list[str]:
    """Results whose bits are not those of the uninterrupted run."""
    ours, theirs = found.results(), reference.results()
    if ours.keys() != theirs.keys():
        return [f"{len(ours)} jobs are counted, {len(theirs)} without faults"]
    return [
        f"job {name[:12]}: {column} is {ours[name][column]!r}, without faults {theirs[name][column]!r}"
        for name in sorted(ours)
        for column in EXACT
        if ours[name][column] != theirs[name][column]
    ]
