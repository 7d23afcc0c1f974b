"""Seeded faults against real sweeps: each seed is one small sweep under a dozen faults, then checked.

    python -m benchmarks.chaos --seeds 20 --database sqlite

Prints one table and adds each seed to benchmarks/results/chaos-DATABASE.json (a seed that stands there already is
replaced), so that a long run can be made in parts. Exits with 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from qsweep.sweeps.code import code_version
from tests.fault.databases import databases
from tests.fault.sabotage import draw_plan
from tests.fault.trial import CHECKPOINT_STEPS, LEASE, Database, Outcome, run_trial

COLUMNS = ("seed", "faults", "launches", "retries", "resumed", "steps", "extra_percent", "seconds", "violations")


def row_of(seed: int, outcome: Outcome) -> dict[str, Any]:
    """What the table and the file keep of a trial."""
    needed = outcome.found.steps_needed
    return {
        "seed": seed,
        "code": code_version(),
        "faults": len(outcome.fired),
        "launches": outcome.launches,
        "retries": outcome.retries,
        "resumed": outcome.found.resumed,
        "steps": outcome.steps,
        "extra_percent": round(100 * (outcome.steps / needed - 1), 1),
        "seconds": round(outcome.seconds, 1),
        "violations": outcome.violations,
        "fired": [f"{fault.action} at {fault.point}" for fault in outcome.fired],
    }


def recorded(file: Path) -> list[dict[str, Any]]:
    """The trials of earlier runs."""
    return list(json.loads(file.read_text())["trials"]) if file.is_file() else []


def report(rows: list[dict[str, Any]], database: str, file: Path) -> None:
    """Write everything so far; called after each seed, so that an interrupted run keeps its figures."""
    fired = [one.partition(" at ") for row in rows for one in row["fired"]]
    content = {
        "database": database,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "lease": LEASE,
        "checkpoint_steps": CHECKPOINT_STEPS,
        "faults": sum(row["faults"] for row in rows),
        "violations": sum(len(row["violations"]) for row in rows),
        "by_action": dict(Counter(action for action, _, _ in fired).most_common()),
        "by_point": dict(Counter(point for _, _, point in fired).most_common()),
        "trials": sorted(rows, key=lambda row: row["seed"]),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=17, help="how many sweeps")
    parser.add_argument("--first", type=int, help="the first seed; by default the one after those in the file")
    parser.add_argument("--faults", type=int, default=20, help="faults planned for each")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds until a sweep counts as hung")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further seed after this time")
    parser.add_argument("--output", type=Path, help="the file of figures; what it holds already stays")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qsweep-chaos-"))
    file = given.output or ROOT / "benchmarks" / "results" / f"chaos-{given.database}.json"
    before = recorded(file)
    first = given.first or 1 + max((row["seed"] for row in before), default=0)
    started, rows = time.monotonic(), list[dict[str, Any]]()
    reference = run_trial(folder / "reference", [], Database(name="sqlite"), reference=None)
    assert not reference.violations, reference.violations
    print("  ".join(f"{name:>9}" for name in COLUMNS), flush=True)
    with databases(given.database) as make:
        for seed in range(first, first + given.seeds):
            if time.monotonic() - started > 60 * given.minutes:
                break
            plan = draw_plan(seed, given.faults, given.database)
            outcome = run_trial(folder / str(seed), plan, make(), reference=reference, patience=given.patience)
            rows.append(row_of(seed, outcome))
            shown = rows[-1] | {"violations": len(outcome.violations)}
            print("  ".join(f"{shown[name]:>9}" for name in COLUMNS), flush=True)
            for problem in outcome.violations:
                print(f"    violated: {problem}", flush=True)
            if outcome.violations:
                print("    " + "\n    ".join(outcome.notes), flush=True)
            else:
                shutil.rmtree(folder / str(seed))
            kept = [row for row in before if row["seed"] not in {one["seed"] for one in rows}]
            report(kept + rows, given.database, file)
    print(f"{sum(row['faults'] for row in rows)} faults, {sum(len(row['violations']) for row in rows)} violations")
    if not any(row["violations"] for row in rows):
        shutil.rmtree(folder)
    return int(any(row["violations"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
