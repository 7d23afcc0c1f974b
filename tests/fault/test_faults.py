"""Real sweeps under faults lose nothing, count nothing twice, and end with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.sabotage import Fault
from tests.fault.trial import Database, Outcome, run_trial

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def fault(action: str, point: str, after: int = 1) -> Fault:
    return Fault(action=action, point=point, after=after)


EVERYWHERE = [
    fault("kill", "claim.uncommitted"),
    fault("kill", "checkpoint.written", 3),
    fault("truncate", "checkpoint.reading"),
    fault("stop", "step", 60),
    fault("die", "launcher.watching", 8),
    fault("clock", "heartbeat"),
    fault("kill both", "checkpoint.recorded", 2),
    fault("kill supervisor", "step", 30),
    fault("kill", "parquet.renamed"),
    fault("full disk", "parquet.written"),
]
"""One fault of each kind, spread over the life of a sweep; those of the database come on top."""
OF_DATABASE = {
    "sqlite": [fault("lock", "checkpoint.recorded", 4), fault("stop", "finish.uncommitted")],
    "postgres": [fault("drop", "finish.uncommitted"), fault("restart", "step", 50)],
}


def test_a_sweep_survives_every_kind_of_fault(tmp_path: Path, database: Database, reference: Outcome) -> None:
    plan = EVERYWHERE + OF_DATABASE[database.name]
    outcome = run_trial(tmp_path / "trial", plan, database, reference=reference)
    assert not outcome.violations, "\n".join([*outcome.violations, *outcome.notes])
    assert len(outcome.fired) >= 10, outcome.notes
    assert outcome.found.resumed
