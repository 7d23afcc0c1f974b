"""What a backend costs: the same sweep with as many agents, from its first claim to its last finish.

Each backend runs the sweep in a home of its own, on this machine, one after the other; with `--at-once` all at the same
time, so that other work on the machine slows them alike. Figures go to `benchmarks/results/backends.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT, surroundings
from qsweep.db.registry import Registry
from qsweep.sweeps.code import code_version

RESULTS = ROOT / "benchmarks" / "results" / "backends.json"
LEAST = 180.0
"""Seconds that the local backend has to take, so that starting up does not decide."""
BACKENDS = {"local": [], "slurm": ["--backend", "slurm"], "ray": ["--backend", "ray"]}
"""The options of each. Ray is a local one on this machine, started by the launch."""


@contextmanager
def cluster(backend: str, workers: int, folder: Path) -> Iterator[dict[str, str]]:
    """What the backend needs to be there, as environment variables."""
    if backend != "slurm" or "SLURM_CONF" in os.environ:
        yield {}
        return
    script = str(ROOT / "deploy" / "slurm" / "one-node.sh")
    subprocess.run([script, "up", str(folder), str(workers)], check=True, stdout=subprocess.DEVNULL)
    try:
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([script, "down", str(folder)], check=True)


def run(backend: str, sweep: list[str], workers: int) -> dict[str, Any]:
    """Launch the sweep there and wait for its end; what the registry says about it."""
    folder = Path(tempfile.mkdtemp(prefix=f"qsweep-backends-{backend}-"))
    folder.chmod(0o755)
    command = [sys.executable, "-m", "qsweep.orchestrator.cli", "launch", *sweep, *BACKENDS[backend]]
    command += ["--workers", str(workers), "--home", str(folder / "home")]
    with cluster(backend, workers, folder / "cluster") as environment:
        subprocess.run(command, check=True, env=surroundings() | environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    with Registry.open(folder / "home" / "registry.db") as registry:
        (found,) = registry.catalogue.sweeps()
        attempts = [one for job in registry.catalogue.jobs(found.id) for one in registry.history.attempts(job.id)]
        agents = registry.catalogue.agents(None)
    assert {one.backend for one in attempts} == {backend}
    assert len({one.agent_id for one in attempts}) == workers, "another number of agents had work"
    ended = [one.ended_at for one in attempts if one.ended_at is not None]
    assert len(ended) == len(attempts)
    shutil.rmtree(folder)
    return {
        "seconds": max(ended) - min(one.started_at for one in attempts),
        "seconds_between_agents": max(one.enlisted_at for one in agents) - min(one.enlisted_at for one in agents),
        "jobs": len({one.job_id for one in attempts}),
        "attempts": len(attempts),
        "code": code_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backends", nargs="*", default=list(BACKENDS), metavar="BACKEND", help=", ".join(BACKENDS))
    parser.add_argument("--workers", type=int, default=psutil.cpu_count(logical=False) or 2, help="agents of each")
    parser.add_argument("--at-once", action="store_true", help="all backends at the same time")
    parser.add_argument("--sweep", default="digits-grid", help="a sweep, and launch's options that select in it")
    given = parser.parse_args()
    if unknown := set(given.backends) - set(BACKENDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    sweep = shlex.split(given.sweep)
    with ThreadPoolExecutor(len(given.backends) if given.at_once else 1) as pool:
        rows = dict(
            zip(given.backends, pool.map(lambda one: run(one, sweep, given.workers), given.backends), strict=True)
        )
    machine = f"{psutil.cpu_count()} cores, {platform.machine()}"
    content = {"machine": machine, "at_once": given.at_once, "workers": given.workers, "sweep": sweep, "runs": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    local = rows.get("local")
    for backend, row in rows.items():
        ratio = f"{row['seconds'] / local['seconds']:.3f}" if local else "-"
        print(f"{backend:<8}{row['seconds']:>8.1f} s  {row['jobs']} jobs, {given.workers} agents  {ratio}")
    if local and local["seconds"] < LEAST:
        print(f"the sweep is too short to tell: the local backend should take {LEAST:g} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
