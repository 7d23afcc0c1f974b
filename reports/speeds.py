"""How fast agents were, from the results of a home."""

from __future__ import annotations

from collections import defaultdict

from db.home import Home
from db.registry import Registry
from db.results import ResultStore


def measured_speeds(home: Home) -> dict[str, float]:
    """Operations a second of one agent, by cohort key; empty without a registry or results."""
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return {}
    operations: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    try:
        for sweep in registry.sweeps():
            jobs = {row.identity: row.job for row in registry.jobs(sweep.id)}
            committed = registry.committed(sweep.id)
            store = ResultStore(home.results)
            tables = [store.read(kind, committed, columns=["job", "seconds"]) for kind in ("runs", "measures")]
            for row in (row for table in tables for row in table.to_pylist()):
                job = jobs[row["job"]]
                operations[job.cohort_key] += job.cost
                seconds[job.cohort_key] += row["seconds"]
    finally:
        registry.close()
    return {key: operations[key] / seconds[key] for key in operations if seconds[key] > 0}
