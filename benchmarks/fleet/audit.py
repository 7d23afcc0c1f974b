"""What is read off at the end: times of calls and of takeovers, and everything counted by plain SQL and pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.fleet.server import connection


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(values)
    at = {f"p{share}": 1000 * ordered[min(int(len(ordered) * share / 100), len(ordered) - 1)] for share in (50, 95, 99)}
    return at | {"largest": 1000 * ordered[-1], "calls": len(ordered)}


def takeover(url: str, killed_at: float, lease: float) -> dict[str, Any]:
    """How long jobs of killed agents waited: until they were back in the queue, and until somebody claimed them."""
    with connection(url) as opened:
        rows = opened.execute(
            "SELECT back.at, min(again.at) FROM events back LEFT JOIN events again ON again.job_id = back.job_id "
            "AND again.id > back.id AND again.target = 'running' "
            "WHERE back.source = 'running' AND back.target = 'queued' AND back.at >= %s GROUP BY back.id, back.at",
            (killed_at,),
        ).fetchall()
    if not rows:
        return {"jobs": 0}
    back, again = sorted(row[0] - killed_at for row in rows), sorted(row[1] - killed_at for row in rows if row[1])
    within = sum(one <= 2 * lease for one in again)
    return {
        "jobs": len(rows), "lease_s": lease, "queued_again_s": [back[len(back) // 2], back[-1]],
        "claimed_again_s": [again[len(again) // 2], again[-1]], "claimed_within_two_leases": within,
    }  # fmt: skip


def audit(url: str, folder: Path) -> dict[str, Any]:
    """Everything counted once, by plain SQL and plain pyarrow; the number of files that an answer opens."""
    once = """
        SELECT count(*) FILTER (WHERE done != (state = 'done')::int OR claims != attempt), count(*), sum(claims) FROM (
            SELECT jobs.id, jobs.attempt, jobs.state, count(*) FILTER (WHERE target = 'done') AS done,
                   count(*) FILTER (WHERE target = 'running') AS claims
            FROM jobs LEFT JOIN events ON events.job_id = jobs.id GROUP BY jobs.id, jobs.attempt, jobs.state) each
    """
    twice = """
        SELECT count(*) FROM (
            SELECT target, lag(target) OVER (PARTITION BY job_id ORDER BY id) AS before FROM events) each
        WHERE target = 'running' AND before = 'running'
    """
    with connection(url) as opened:
        wrong, jobs, claims = opened.execute(once).fetchone()
        ((overlapping,),) = opened.execute(twice).fetchall()
        pointers = {
            (identity, attempt, publication)
            for identity, attempt, publication in opened.execute(
                "SELECT identity, attempt, publication FROM jobs WHERE state = 'done'"
            )
        }
        ((agents,),) = opened.execute("SELECT count(*) FROM agents").fetchall()
    publications = {publication for _, _, publication in pointers}
    missing = repeated = 0
    for publication in publications:
        table = pq.read_table(folder / "results" / "runs" / f"{publication}.parquet", columns=["job", "attempt"])
        rows = [(row["job"], row["attempt"], publication) for row in table.to_pylist()]
        repeated += len(rows) - len(set(rows))
        pointers -= set(rows)
    missing = len(pointers)
    return {
        "jobs": jobs, "not_counted_once": wrong, "claimed_while_held": overlapping, "without_a_row": missing,
        "rows_twice": repeated, "claims": int(claims), "agents": agents, "files_pointed_to": len(publications),
        "files_written": len(list((folder / "results" / "runs").glob("*.parquet"))),
    }  # fmt: skip
