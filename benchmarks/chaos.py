"""Seeded faults against real sweeps: each seed is one small sweep under a dozen faults, then checked.

    python benchmarks/chaos.py --seeds 20 --database sqlite

Prints one table and writes benchmarks/results/chaos-DATABASE.json. Exits with 1 if anything was violated.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.fault.databases import databases  # noqa: E402
from tests.fault.sabotage import draw_plan  # noqa: E402
from tests.fault.trial import CHECKPOINT_STEPS, LEASE, Database, Outcome, run_trial  # noqa: E402

COLUMNS = ("seed", "faults", "launches", "retries", "resumed", "steps", "extra_percent", "seconds", "violations")


def row_of(seed: int, outcome: Outcome) -> dict[str, Any]:
    """What the table and the file keep of a trial."""
    needed = outcome.found.steps_needed
    return {
        "seed": seed,
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


def report(rows: list[dict[str, Any]], database: str, file: Path) -> None:
    """Write everything so far; called after each seed, so that an interrupted run keeps its figures."""
    actions = Counter(one.partition(" at ")[0] for row in rows for one in row["fired"])
    points = Counter(one.partition(" at ")[2] for row in rows for one in row["fired"])
    content = {
        "database": database,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "lease": LEASE,
        "checkpoint_steps": CHECKPOINT_STEPS,
        "faults": sum(row["faults"] for row in rows),
        "violations": sum(len(row["violations"]) for row in rows),
        "by_action": dict(actions.most_common()),
        "by_point": dict(points.most_common()),
        "trials": rows,
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=17, help="how many sweeps")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--faults", type=int, default=12, help="faults planned for each")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further seed after this time")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qsweep-chaos-"))
    file = ROOT / "benchmarks" / "results" / f"chaos-{given.database}.json"
    started, rows = time.monotonic(), []
    reference = run_trial(folder / "reference", [], Database(name="sqlite"), reference=None)
    assert not reference.violations, reference.violations
    print("  ".join(f"{name:>9}" for name in COLUMNS), flush=True)
    with databases(given.database) as make:
        for seed in range(given.first, given.first + given.seeds):
            if time.monotonic() - started > 60 * given.minutes:
                break
            plan = draw_plan(seed, given.faults, given.database)
            outcome = run_trial(folder / str(seed), plan, make(), reference=reference)
            rows.append(row_of(seed, outcome))
            shown = rows[-1] | {"violations": len(outcome.violations)}
            print("  ".join(f"{shown[name]:>9}" for name in COLUMNS), flush=True)
            for problem in outcome.violations:
                print(f"    violated: {problem}", flush=True)
            if outcome.violations:
                print("    " + "\n    ".join(outcome.notes), flush=True)
            else:
                shutil.rmtree(folder / str(seed))
            report(rows, given.database, file)
    print(f"{sum(row['faults'] for row in rows)} faults, {sum(len(row['violations']) for row in rows)} violations")
    if not any(row["violations"] for row in rows):
        shutil.rmtree(folder)
    return int(any(row["violations"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
