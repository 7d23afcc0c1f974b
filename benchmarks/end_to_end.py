"""A whole sweep as a user launches it, in a fresh home: how long, and how much of it was not training.

`python -m benchmarks.end_to_end [SWEEP] [--workers N] [--data DIR]` prints one table and keeps the raw figures in
`results/end_to_end.json`. All agents' time from the launch to its last line is divided into
- training: steps and evaluations, from the agents' own clocks,
- saving: checkpoints and trained models,
- the rest: start-up of the launcher and the agents, claims, Parquet, the registry, the last agent's lead, tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import qsweep

SAVED = re.compile(r"(\d+\.\d+) s of (\d+\.\d+) s went into checkpoints")
RESULTS = Path(__file__).parent / "results" / "end_to_end.json"


def measure(sweep: str, workers: int, data: str | None) -> dict[str, object]:
    """Launch the sweep in a home of its own; seconds of all agents together, by what they went into."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        command = [str(Path(sys.executable).with_name("qsweep")), "launch", sweep]
        command += ["--home", str(home), "--workers", str(workers), *(["--data", data] if data else [])]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.monotonic() - began
        runs = qsweep.results(Path(sweep).stem, home=home)
        logs = "".join(path.read_text() for path in (home / "logs" / "agents").glob("*.log"))
    saving = sum(float(match[1]) for match in SAVED.finditer(logs))
    cohorts = float(runs.seconds.sum())
    return {
        "sweep": sweep,
        "models": len(runs),
        "workers": workers,
        "device": runs.device.iloc[0],
        "torch": runs.torch.iloc[0],
        "wall_seconds": wall,
        "training_seconds": cohorts - saving,
        "saving_seconds": saving,
        "rest_seconds": wall * workers - cohorts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", default="digits-grid")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data")
    given = parser.parse_args()
    found = measure(given.sweep, given.workers, given.data)
    total = float(str(found["wall_seconds"])) * given.workers
    print(f"{found['sweep']}: {found['models']} models in {float(str(found['wall_seconds'])):.0f} s on "
          f"{given.workers} agents ({found['device']}, torch {found['torch']})")  # fmt: skip
    for part in ("training", "saving", "rest"):
        seconds = float(str(found[f"{part}_seconds"]))
        print(f"{part:<10}{seconds:>9.1f} s {seconds / total:>7.1%}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
