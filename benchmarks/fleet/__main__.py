"""Run it: `python -m benchmarks.fleet`."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import benchmarks.fleet
from benchmarks.fleet.beside import launcher
from benchmarks.fleet.story import fleet, say
from benchmarks.fleet.watchers import watchers
from benchmarks.registry import fsync_ms

RESULTS = Path(__file__).parent.parent / "results" / "fleet.json"
PROCESSES = 8
ASKED = ("agents", "idle", "jobs", "cohort", "seconds", "lease", "processes", "watchers", "at_most")


def main() -> None:
    parser = argparse.ArgumentParser(description=benchmarks.fleet.__doc__)
    parser.add_argument("--part", choices=("fleet", "watchers"), default="fleet")
    parser.add_argument("--name", help="under which the figures are kept; by default the part and its size")
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--cohort", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a cohort takes")
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument("--idle", type=int, default=0, help="of `watchers`: agents that only hold their jobs")
    parser.add_argument("--length", type=float, default=60.0, help="seconds that `watchers` measures")
    parser.add_argument("--at-most", type=float, default=3_000.0, help="seconds after which nothing more is claimed")
    parser.add_argument("--kill-at", type=float, default=0.2, help="share of the jobs done at which half are killed")
    parser.add_argument("--restart-at", type=float, default=0.45, help="and at which the server is restarted")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--role", choices=("launcher",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        launcher(given.folder, given.url, given.agents)
        return
    with tempfile.TemporaryDirectory() as folder:
        fsync = fsync_ms(Path(folder))
    found = {"fleet": fleet, "watchers": watchers}[given.part](given)
    asked = {name: getattr(given, name) for name in ASKED}
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(), "fsync_ms": fsync, "asked": asked, **found,
    }  # fmt: skip
    say(json.dumps(entry, indent=1))
    content = json.loads(given.output.read_text()) if given.output.is_file() else {}
    content[given.name or f"{given.part} {given.agents} agents {given.jobs} jobs"] = entry
    given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
