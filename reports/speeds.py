"""How fast agents were, from the results of a home."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qsweep.db.home import Home
from qsweep.db.losses import read_sound
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.schema import ROW_KINDS
from qsweep.sweeps.job import Job


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One cohort that was run: one of its jobs, how many there were, with what, and how long it took."""

    job: Job
    members: int
    device: str
    slots: int
    form: str = ""
    seconds: float


def ran_cohorts(home: Home) -> list[Ran]:
    """Every cohort whose results count, of every sweep; empty without a registry."""
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return []
    store = ResultStore(home.store)
    found: dict[str, Ran] = {}
    with registry:
        for sweep in registry.catalogue.sweeps():
            committed = registry.catalogue.pointers(sweep.id)
            # As first published: a compaction moves the rows of many cohorts together.
            tried = registry.catalogue.view("attempts", sweep.id, ["job", "attempt", "publication"]).to_pylist()
            published = {(one["job"], one["attempt"]): one["publication"] for one in tried}
            publications = {one["job"]: published[one["job"], one["attempt"]] for one in committed.to_pylist()}
            if not publications.keys() - found.keys():
                continue
            jobs = {row.identity: row.job for row in registry.catalogue.jobs(sweep.id)}
            for kind in (one.name for one in ROW_KINDS.values() if one.one_row_a_job):
                rows, _ = read_sound(store, kind, committed, columns=["job", "seconds", "device", "slots", "form"])
                for one in _by_publication(rows, publications):
                    job = jobs[one["job_first"]]
                    found[publications[job.identity]] = Ran(
                        job=job,
                        members=one["job_count"],
                        device=one["device_first"],
                        slots=one["slots_first"],
                        form=one["form_first"],
                        seconds=one["seconds_sum"],
                    )
    return list(found.values())


def _by_publication(rows: pa.Table, publications: dict[str, str]) -> list[dict[str, Any]]:
    """A cohort finishes as one publication; each of its rows has its share of the seconds."""
    names = pa.array([publications[job] for job in rows["job"].to_pylist()], pa.string())
    rows = rows.filter(pc.is_valid(rows["seconds"])) if rows["seconds"].null_count else rows
    table = rows.append_column("publication", names)
    firsts = [(name, "first") for name in ("job", "device", "slots", "form")]
    wanted = [*firsts, ("job", "count"), ("seconds", "sum")]
    grouped: list[dict[str, Any]] = table.group_by("publication", use_threads=False).aggregate(wanted).to_pylist()
    return grouped
