"""What each answer costs as a sweep grows: `python -m benchmarks.scale --folder DIR [--before CHECKOUT]`.

Makes homes below DIR, unless they are there, with a finished sweep of about as many jobs as each of `--jobs`, five to a
publication, whose figures are made up (`benchmarks.made_up`): the digits grid with as many seeds as that takes. Then it
runs the commands on them, each as a process of its own, and `plan` of 3^11 jobs in an empty home.

A command's processor time stands in units T of `python -c "import torch"`, which takes turns with the commands, so that
a machine whose speed drifts shifts both; beside it stands its peak memory. How a cost grows is the exponent between two
sizes: 0 is a constant, 1 in proportion. With `--before`, the commands of another checkout run on the same homes in
turns with those of this one, and the two have to print the same bytes. With `--postgres N`, N jobs are registered in a
Postgres of its own, and `status` is asked there. The figures go to `benchmarks/results/scale.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.made_up import made_up_rows
from benchmarks.registry import databases, fill
from qsweep.db.columns import table_of_rows
from qsweep.db.home import Home
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentInfo
from qsweep.db.schema import ROW_KINDS
from qsweep.orchestrator.registration import register
from qsweep.orchestrator.selection import read_selection
from qsweep.sweeps.code import code_version, freeze
from qsweep.sweeps.files import source_text
from qsweep.sweeps.job import Job

RESULTS = Path(__file__).parent / "results" / "scale.json"
TORCH = (sys.executable, "-c", "import torch")
GRID = "digits-grid"
NAME = "scale"
MEMBERS = 5
"""Jobs of a publication."""
TOGETHER = 1_000
"""Jobs whose rows are made at once."""
CUBE = 11
"""Axes of three values each."""
AGENT, BEGAN = 1, 1_700_000_000.0
LOG = "logs/made-up.log"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Processor seconds with those of processes that it waited for, seconds of the clock, and the peak in MB."""

    cpu: float
    wall: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, and what it may cost at most at 100,000 jobs: in T of processor time, and in MB."""

    name: str
    words: tuple[str, ...]
    times: float
    memory: float
    writes: str = ""
    """The file that holds its answer, beside what it prints."""


def commands(home: Path, job: str) -> list[Command]:
    """What is asked of a finished sweep; `job` is one of its jobs."""
    page, sql = "report.html", "SELECT bits, avg(generalization_gap) AS gap FROM runs GROUP BY bits ORDER BY bits"
    return [
        Command(name="status", words=("status",), times=0.3, memory=150),
        Command(name="jobs --limit 5", words=("jobs", NAME, "--limit", "5"), times=0.3, memory=150),
        Command(name="show", words=("show", job), times=0.3, memory=150),
        Command(name="logs", words=("logs", job), times=0.3, memory=150),
        Command(name="jobs --json", words=("jobs", NAME, "--json"), times=1.5, memory=300),
        Command(name="tables", words=("tables", NAME), times=1.5, memory=300),
        Command(name="query", words=("query", sql), times=1.5, memory=300),
        Command(name="plan", words=("plan", str(home / f"{NAME}.toml")), times=3, memory=400),
        Command(name="db check", words=("db", "check"), times=5, memory=400),
        Command(name="gc --dry-run", words=("gc", "--dry-run"), times=5, memory=400),
        Command(name="du", words=("du",), times=5, memory=400),
        Command(name="report", words=("report", NAME, "--out", page), times=6, memory=1_000, writes=page),
    ]


def make(folder: Path, count: int) -> Home:
    """A home in which about `count` trainings are done, each at its first attempt."""
    home = Home.at(folder)
    if Path(home.registry).exists():
        return home
    folder.mkdir(parents=True, exist_ok=True)
    os.fsync = lambda descriptor: None  # nobody pulls the plug of a benchmark
    selection = read_selection(str(_grid(folder, count)))
    freeze(home.code)
    registry, _, _ = register(home, selection, None, code=code_version())
    with registry:
        agent = registry.agents.enlist(
            AgentInfo(
                host=platform.node(), pid=os.getpid(), process_started=0.0, boot_id="", backend="made up",
                device="made up", build="made up", log=LOG,
            )
        )  # fmt: skip
        registry.agents.retire(agent)
    jobs, dice, store = selection.jobs, random.Random(0), ResultStore(home.store)
    for start in range(0, len(jobs), TOGETHER):
        _publish(store, agent, start, jobs[start : start + TOGETHER], dice)
    (home.logs / Path(LOG).name).parent.mkdir(exist_ok=True)
    (home.root / LOG).write_text("".join(f"epoch {number}: made up\n" for number in range(20_000)))
    _finish(home.registry, agent)
    return home


def _publish(store: ResultStore, agent: int, start: int, jobs: Sequence[Job], dice: random.Random) -> None:
    """The results of these jobs, the first of which is the sweep's in place `start`: made at once, written by fives."""
    for kind, rows in made_up_rows([(job, 1) for job in jobs], dice).items():
        table = table_of_rows(rows, ROW_KINDS[kind].columns)
        counts = Counter(row["job"] for row in rows)
        ends = list(accumulate((counts[job.identity] for job in jobs), initial=0))
        for place in range(0, len(jobs), MEMBERS):
            first, last = ends[place], ends[min(place + MEMBERS, len(jobs))]
            store.write_table(kind, _publication(agent, (start + place) // MEMBERS), table.slice(first, last - first))


def _grid(folder: Path, count: int) -> Path:
    """A sweep file: the digits grid with so many seeds, which keeps no models."""
    text = source_text(GRID)
    seeds = max(round(count / len(read_selection(GRID).jobs)), 1)
    text = text.replace("\n[fixed]", '\nkeep = "none"\n\n[fixed]', 1)
    text = text.replace("\n[axes.learning_rate]", f"seed = {list(range(seeds))}\n\n[axes.learning_rate]", 1)
    path = folder / f"{NAME}.toml"
    path.write_text(text)
    return path


def _publication(agent: int, number: int) -> str:
    return f"{agent:06d}-{number:012x}"


def _finish(path: str, agent: int) -> None:
    """Every job as an agent leaves it that claimed and finished it, with its events, but without their transactions."""
    at = f"{BEGAN} + ((id - 1) / {MEMBERS}) * 20"
    name = f"printf('%06d-%012x', {agent}, (id - 1) / {MEMBERS})"
    event = f"(job_id, at, source, target, agent_id, attempt, detail) SELECT id, {at}"
    with sqlite3.connect(path) as connection:
        for statement in (
            f"UPDATE jobs SET state = 'done', attempt = 1, epoch = 24, publication = {name}, ended_at = {at} + 15",
            "INSERT INTO attempts (job_id, attempt, agent_id, claim, resumed_from, started_at, ended_at, outcome, "
            f"error, publication) SELECT id, 1, {agent}, id, 0, {at}, {at} + 15, 'done', '', publication FROM jobs",
            f"INSERT INTO events {event}, 'queued', 'running', {agent}, 1, 'claimed' FROM jobs",
            f"INSERT INTO events {event} + 15, 'running', 'done', {agent}, 1, publication FROM jobs",
        ):
            connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def cube(folder: Path) -> Path:
    """A sweep file of 3^11 jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    text = source_text(GRID)
    head = text.partition("\n[axes]\n")[0]
    values = {
        "optimizer": ["adam", "rmsprop", "sgd"], "weight_decay": [0.0, 1e-4, 2e-4], "width": [8, 10, 12],
        "depth": [2, 3, 4], "bits": [8, 4, 2], "learning_rate": [0.01, 0.005, 0.002], "seed": [0, 1, 2],
        "epochs": [24, 48, 96], "batch_size": [32, 64, 128], "data_seed": [0, 1, 2], "lr_factor": [0.1, 0.2, 0.5],
    }  # fmt: skip
    assert len(values) == CUBE
    fixed = [line for line in head.splitlines() if line.partition(" ")[0] not in values]
    path = folder / "cube.toml"
    lines = (f"{name} = {json.dumps(some)}" for name, some in values.items())
    path.write_text("\n".join([*fixed, "", "[axes]", *lines, ""]))
    return path


def run(checkout: Path, words: Sequence[str], folder: Path) -> tuple[Cost, str]:
    """What a command of a checkout costs, run in this folder, and a hash of what it prints."""
    search = os.pathsep.join([str(checkout / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    line = words if words == TORCH else [sys.executable, "-m", "qsweep.orchestrator.cli", *words]
    with tempfile.TemporaryFile() as printed:
        began = time.perf_counter()
        process = subprocess.Popen(
            line, cwd=folder, stdout=printed, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": search, "QSWEEP_HOME": str(folder), "COLUMNS": "80"},
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        content = printed.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} of {checkout} failed:\n{content.decode(errors='replace')[-2000:]}")
    scale = 1e3 if sys.platform == "linux" else 1e6  # Linux counts in KiB, macOS in bytes
    cost = Cost(cpu=used.ru_utime + used.ru_stime, wall=wall, memory=used.ru_maxrss / scale)
    return cost, hashlib.sha256(content).hexdigest()


def measure(
    checkouts: Mapping[str, Path], command: Command, folder: Path, times: int
) -> tuple[dict[str, dict[str, float]], bool]:
    """The median costs of one command by checkout, in T too, taking turns; and whether all answers are the same."""
    found: dict[str, list[Cost]] = {name: [] for name in checkouts}
    units, answers = [], set[str]()
    for _ in range(times):
        units.append(run(ROOT, TORCH, folder)[0])
        for name, checkout in checkouts.items():
            cost, answer = run(checkout, command.words, folder)
            if command.writes:
                answer += hashlib.sha256((folder / command.writes).read_bytes()).hexdigest()
            found[name].append(cost)
            answers.add(answer)
    unit = statistics.median(one.cpu for one in units)
    costs = {
        name: {key: statistics.median(asdict(one)[key] for one in some) for key in ("cpu", "wall", "memory")}
        for name, some in found.items()
    }
    for cost in costs.values():
        cost["T"] = cost["cpu"] / unit
    return costs, len(answers) == 1


def growth(small: float, large: float, sizes: tuple[int, int]) -> float:
    """The exponent by which a cost grows between two sizes."""
    return math.log(large / small) / math.log(sizes[1] / sizes[0])


def first_job(home: Home) -> str:
    """One of its jobs, from the middle."""
    with sqlite3.connect(home.registry) as connection:
        query = "SELECT identity FROM jobs WHERE id = (SELECT max(id) / 2 + 1 FROM jobs)"
        return str(connection.execute(query).fetchone()[0])


def figures(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each command at each size."""
    checkouts = {"before": given.before.absolute()} if given.before else {}
    checkouts |= {"after": ROOT}
    for count in given.jobs:
        home = make(given.folder / f"jobs-{count}", count)
        for command in commands(home.root, first_job(home)):
            if not given.only or command.name in given.only:
                yield {"jobs": count} | _figure(checkouts, command, home.root, given.times)
    folder = given.folder / "empty"
    command = Command(name="plan, 3^11 jobs", words=("plan", str(cube(folder))), times=3, memory=400)
    if not given.only or command.name in given.only:
        yield {"jobs": 3**CUBE} | _figure(checkouts, command, folder, given.times)
    if given.postgres:
        yield from _on_postgres(given)


def _figure(checkouts: Mapping[str, Path], command: Command, folder: Path, times: int) -> dict[str, Any]:
    run(ROOT, command.words, folder)  # what is compiled, probed and cached once
    costs, same = measure(checkouts, command, folder, times)
    size = {"page": (folder / command.writes).stat().st_size} if command.writes else {}
    return {"command": command.name, "at most": [command.times, command.memory], "same answer": same, **costs, **size}


def _on_postgres(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    count: int = given.postgres
    with (
        tempfile.TemporaryDirectory(prefix="qsweep-scale-", ignore_cleanup_errors=True) as name,
        databases(Path(name), postgres=True) as made,
    ):
        if "postgres" not in made:
            return
        url = made["postgres"]("scale")
        _, seconds = fill(url, count)
        command = Command(name="status, Postgres", words=("--registry", url, "status"), times=0.4, memory=150)
        found = _figure({"after": ROOT}, command, Path(name), given.times)
        yield {"jobs": count, "register, seconds": seconds} | found


def show(figure: Mapping[str, Any], small: Mapping[str, Any] | None) -> None:
    """One line of the table."""
    cells = [f"{figure['command']:<18}", f"{figure['jobs']:>9,}"]
    both = [figure[name] for name in ("before", "after") if name in figure]
    cells += [f"{one['T']:>7.2f} T {one['memory']:>6,.0f} MB" for one in both]
    if small is not None:
        exponent = growth(small["after"]["cpu"], figure["after"]["cpu"], (small["jobs"], figure["jobs"]))
        cells.append(f"^{exponent:.2f}")
    cells += [] if figure["same answer"] else ["THE ANSWERS DIFFER"]
    print("  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the homes are, or are made")
    parser.add_argument("--jobs", type=int, action="append", help="a size; may be given again (default 1000, 100000)")
    parser.add_argument("--before", type=Path, help="another checkout, to be compared with this one")
    parser.add_argument("--only", action="append", metavar="COMMAND", help="only this one; may be given again")
    parser.add_argument("--times", type=int, default=3, help="how often each is measured")
    parser.add_argument("--postgres", type=int, default=0, metavar="N", help="register N jobs in a Postgres, too")
    parser.add_argument("--make", action="store_true", help="only make the homes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.folder = given.folder.absolute()
    given.jobs = given.jobs or [1_000, 100_000]
    if given.make:
        for count in given.jobs:
            make(given.folder / f"jobs-{count}", count)
        return
    found: list[dict[str, Any]] = []
    for figure in figures(given):
        small = next((one for one in found if one["command"] == figure["command"]), None)
        found.append(figure)
        show(figure, small)
    content = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "load": os.getloadavg()[0]},
        "figures": found,
    }
    given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
