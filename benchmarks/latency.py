"""What a user waits for: whole commands, from Enter to the prompt, in a warm home.

`python -m benchmarks.latency [--runs N] [--home DIR]` prints a Markdown table and keeps the raw figures in
`results/latency.json`. The unit is T, the time of `python -c "import torch"` in the same run: commands and unit take
turns, so that a machine whose speed drifts shifts both. Each figure is the median of the runs: of the clock, and of
processor time of the command and of every process that it started and waited for.

Answers are asked of a finished digits grid: 972 models of 24 epochs, whose results are made up
(`benchmarks.made_up`), because what an answer costs does not depend on whether they are true. It is made in the folder
of `--home`, and used again if it is there; each measured launch trains two models that are new to it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.made_up import make_up
from qsweep.db.home import Home

RESULTS = Path(__file__).parent / "results" / "latency.json"
QSWEEP = str(Path(sys.executable).with_name("qsweep"))
GRID = "digits-grid"
TORCH = (sys.executable, "-c", "import torch")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the clock and of processor time."""

    wall: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command line, and the most that it may cost, in T. `fresh`: its seed is another one at each run."""

    name: str
    words: tuple[str, ...]
    wall: float | None
    cpu: float | None = None
    fresh: bool = False


def commands() -> list[Command]:
    launch = (QSWEEP, "launch", GRID, "--limit", "2", "--set", "epochs=2")
    return [
        Command(name="python -c pass", words=(sys.executable, "-c", "pass"), wall=None),
        Command(name="qsweep launch, two models", words=launch, wall=1.6, cpu=2.2, fresh=True),
        Command(name="qsweep launch, nothing to do", words=(QSWEEP, "launch", GRID), wall=0.2),
        Command(name="qsweep status", words=(QSWEEP, "status"), wall=0.15),
        Command(name="qsweep jobs", words=(QSWEEP, "jobs", GRID), wall=0.15),
        Command(name="qsweep sweeps", words=(QSWEEP, "sweeps"), wall=0.15),
        Command(name="qsweep plan", words=(QSWEEP, "plan", GRID), wall=0.15),
        Command(name="qsweep tables", words=(QSWEEP, "tables", GRID), wall=0.15),
        Command(
            name="qsweep query",
            words=(QSWEEP, "query", "SELECT bits, avg(train_loss) FROM runs GROUP BY bits"),
            wall=0.15,
        ),
        Command(name="qsweep report", words=(QSWEEP, "report", GRID, "--out", "report.html"), wall=0.7),
        Command(name="qsweep doctor", words=(QSWEEP, "doctor"), wall=1.5),
        Command(name="import qsweep", words=(sys.executable, "-c", "import qsweep"), wall=0.03),
    ]


def timed(words: Sequence[str], folder: Path, environment: dict[str, str]) -> Cost:
    """What one run costs. Raises CalledProcessError if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall=time.perf_counter() - began, cpu=cpu)


def seeds(path: Path) -> Iterator[int]:
    """Seeds that no earlier launch in this home had."""
    counter = path / "seeds"
    while True:
        last = int(counter.read_text()) if counter.is_file() else 0
        counter.write_text(str(last + 1))
        yield last + 1


def measure(folder: Path, runs: int) -> dict[str, object]:
    home = folder / "home"
    if not home.exists():
        make_up(Home.at(home), GRID)
    environment = {**os.environ, "QSWEEP_HOME": str(home)}
    found = {one.name: list[Cost]() for one in commands()}
    unit: list[Cost] = []
    fresh = seeds(folder)
    for turn in range(runs + 1):
        taken = timed(TORCH, folder, environment)
        if turn:
            unit.append(taken)
        for one in commands():
            words = (*one.words, "--set", f"seed={next(fresh)}") if one.fresh else one.words
            taken = timed(words, folder, environment)
            if turn:  # the first turn warms the caches of files
                found[one.name].append(taken)
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "date": time.strftime("%Y-%m-%d"),
        "runs": runs,
        "unit": [asdict(one) for one in unit],
        "commands": {name: [asdict(one) for one in some] for name, some in found.items()},
        "targets": {one.name: {"wall": one.wall, "cpu": one.cpu} for one in commands()},
    }


def table(found: dict[str, object]) -> str:
    """Medians in T, beside what is asked."""
    unit = _medians(found["unit"])
    lines = [
        f"T = {unit.wall:.2f} s ({unit.cpu:.2f} s of processor time); {found['machine']}, {found['date']}",
        "",
        "| command | clock (T) | asked | processor (T) | asked |",
        "|---|--:|--:|--:|--:|",
    ]
    targets = found["targets"]
    measured = found["commands"]
    assert isinstance(targets, dict)
    assert isinstance(measured, dict)
    for name, some in measured.items():
        cost, asked = _medians(some), targets[name]
        lines.append(
            f"| `{name}` | {cost.wall / unit.wall:.2f} | {_asked(asked['wall'])} | {cost.cpu / unit.cpu:.2f} "
            f"| {_asked(asked['cpu'])} |"
        )
    return "\n".join(lines)


def _asked(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _medians(costs: object) -> Cost:
    assert isinstance(costs, list)
    return Cost(**{name: statistics.median(one[name] for one in costs) for name in ("wall", "cpu")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--home", type=Path, help="a folder that is kept, with the finished grid")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.home or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder.absolute(), given.runs)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
