"""How long a query over 100,000 result rows takes, before and after compaction, beside bare DuckDB.

    python -m benchmarks.query --home DIR [--jobs 100000]

Builds a home of made-up results at DIR if there is none (minutes), then measures; the figures go to
benchmarks/results/query.json. Bare DuckDB reads the same files by a glob: it knows nothing of what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from qsweep.db.compaction import compact
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.schema import ROW_KINDS
from qsweep.db.tables import jobs as jobs_table
from qsweep.reports.query import run_query
from qsweep.reports.source import RegistrySource
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training

RESULTS = Path(__file__).parent / "results" / "query.json"
COHORT = 16
REPEATS = 3
SQL = "SELECT bits, avg(generalization_gap) AS gap, count(*) AS models FROM runs GROUP BY bits ORDER BY bits"
QUERIES = {
    "gap by bits": SQL,
    "gap by bits, one sweep": SQL.replace("GROUP", "WHERE sweep = 'made' GROUP"),
    "best ten": "SELECT job, test_loss FROM runs ORDER BY test_loss LIMIT 10",
    "states": "SELECT state, count(*) FROM jobs GROUP BY state",
}


def build(home: Home, count: int) -> None:
    """`count` done jobs in publications of 16."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # nobody pulls the plug of a benchmark
    home.results.mkdir(parents=True)
    spec = read_sweep("digits-grid")
    settings = spec.jobs()[3].settings()
    base = [Training.from_settings({**settings, "bits": bits, "seed": 0}) for bits in (32, 8, 4, 2)]
    made = [Job(training=Training.from_settings({**base[seed % 4].settings(), "seed": seed})) for seed in range(count)]
    with Registry.open(home.registry, create=True) as registry:
        sweep = registry.sweeps.add(name="made", label="up", spec=spec.to_json(), size=count)
        registry.sweeps.register(sweep.id, made)
    store = ResultStore(home.results)
    dice = np.random.default_rng(0)
    for start in range(0, count, COHORT):
        rows = [
            {"job": job.identity, "attempt": 1, **job.settings(), "test_loss": float(dice.random()),
             "generalization_gap": float(dice.random()), "diverged": False}
            for job in made[start : start + COHORT]
        ]  # fmt: skip
        keys = [{"job": row["job"], "attempt": 1} for row in rows]
        store.write("runs", _publication(start), rows)
        store.write("epochs", _publication(start), [{**key, "epoch": epoch} for key in keys for epoch in (1, 2, 3)])
        store.write("layers", _publication(start), [{**key, "layer": "head"} for key in keys])
    # Finished as an agent would, but without its 100,000 claims.
    engine = sa.create_engine(home.registry)
    with engine.begin() as connection:
        connection.execute(
            jobs_table.update().where(jobs_table.c.identity == sa.bindparam("one")),
            [
                {"one": job.identity, "state": "done", "attempt": 1, "publication": _publication(number)}
                for number, job in enumerate(made)
            ],
        )
    engine.dispose()


def _publication(number: int) -> str:
    return f"000001-{number // COHORT * COHORT:012x}"


def seconds(act: Callable[[], object]) -> float:
    """The median of some runs, after one to warm up."""
    act()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure(home: Home) -> dict[str, float]:
    """Seconds of each query, from opening the registry on, and of what one would do without it."""
    found = {}
    for name, sql in QUERIES.items():

        def ask(sql: str = sql) -> pa.Table:
            with Registry.open(home.registry) as registry:
                return run_query(
                    sql, [RegistrySource(home, registry, one) for one in registry.catalogue.sweeps()]
                ).table

        found[name] = seconds(ask)
    pattern = str(home.results / "runs" / "*.parquet")
    found["bare DuckDB: gap by bits"] = seconds(
        lambda: duckdb.connect().sql(SQL.replace("runs", f"read_parquet('{pattern}')")).fetchall()
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--build", action="store_true", help="only build")
    given = parser.parse_args()
    home = Home.at(given.home)
    if not home.results.exists():
        build(home, given.jobs)
    if given.build:
        return
    figures: dict[str, object] = {"rows": given.jobs, "columns": len(ROW_KINDS["runs"].columns)}
    figures["publications of 16, seconds"] = measure(home)
    with Registry.open(home.registry) as registry:
        started = time.perf_counter()
        compact(home, registry, [one.id for one in registry.catalogue.sweeps()])
        figures["compaction, seconds"] = time.perf_counter() - started
        counted = registry.catalogue.publications()
    for path in (home.results / "runs").iterdir():  # as `qsweep gc` does an hour later
        if path.stem not in counted:
            path.unlink()
    figures["compacted, files"] = len(counted)
    figures["compacted, seconds"] = measure(home)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
