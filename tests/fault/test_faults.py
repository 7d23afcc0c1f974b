"""Real sweeps under faults lose nothing, count nothing twice, and end with the same bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fault.sabotage import Fault
from tests.fault.trial import Database, Outcome, run_trial

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def fault(action: str, point: str, after: int = 1) -> Fault:
    return Fault(action=action, point=point, after=after)


FIRST = [
    fault("kill", "claim.uncommitted"),
    fault("kill", "parquet.renamed"),
    fault("full disk", "parquet.written"),
    fault("truncate", "checkpoint.reading"),
    fault("kill", "checkpoint.written", 3),
    fault("kill both", "checkpoint.recorded", 2),
    fault("die", "launcher.watching", 40),
]
LATER = [
    fault("stop", "step", 60),
    fault("clock", "heartbeat"),
    fault("kill supervisor", "step", 30),
]
OF_DATABASE = {
    "sqlite": (fault("stop", "finish.uncommitted"), fault("lock", "checkpoint.recorded", 4)),
    "postgres": (fault("drop", "finish.uncommitted"), fault("restart", "step", 50)),
}


def test_a_sweep_survives_every_kind_of_fault(tmp_path: Path, database: Database, reference: Outcome) -> None:
    """12 faults, and each of them happens: what waits for the end of a cohort is armed from the beginning."""
    late, soon = OF_DATABASE[database.name]
    plan = [late, *FIRST, *LATER, soon]
    outcome = run_trial(tmp_path / "trial", plan, database, reference=reference, patience=900)
    assert not outcome.violations, "\n".join([*outcome.violations, *outcome.notes])
    assert Counter(outcome.fired) == Counter(plan), outcome.notes
    assert outcome.found.resumed
