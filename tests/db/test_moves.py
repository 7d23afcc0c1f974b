"""The table of transitions is the law of every change of a job's state."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qsweep.db.errors import IllegalMove
from qsweep.db.moves import move
from qsweep.db.registry import Registry
from qsweep.db.rows import Sweep
from qsweep.db.states import TRANSITIONS, State
from tests.db.conftest import trained

PAIRS = [(source, target) for source in State for target in State]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_job_moves_as_the_table_says_and_not_otherwise(
    registry: Registry, sweep: Sweep, execute: Callable[[str], list[Any]], source: State, target: State
) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    execute(f"UPDATE jobs SET state = '{source}'")
    rows = registry.catalogue.jobs(sweep.id)

    if (source, target) in TRANSITIONS:
        registry._database.write(lambda t: move(t, rows, target, "a reason"))
        started = int(target is State.RUNNING)
        assert [(row.state, row.attempt) for row in registry.catalogue.jobs(sweep.id)] == [(target, started)] * 2
        told = [(one.source, one.target, one.attempt, one.detail) for one in registry.history.events()]
        assert told == [(source, target, started, "a reason")] * 2
    else:
        with pytest.raises(IllegalMove, match=f"from {source} to {target}"):
            registry._database.write(lambda t: move(t, rows, target, "a reason"))
        assert registry.catalogue.jobs(sweep.id) == rows
        assert registry.history.events() == []


def test_of_jobs_of_which_one_is_elsewhere_none_moves(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(3))
    before = registry.catalogue.jobs(sweep.id)
    *rows, last = [SimpleNamespace(id=row.id, state=row.state, attempt=row.attempt) for row in before]
    last.state = State.DONE  # it was, when somebody looked
    with pytest.raises(IllegalMove):
        registry._database.write(lambda t: move(t, [*rows, last], State.QUEUED, "queued again"))
    with pytest.raises(IllegalMove, match="not in that state any more"):
        registry._database.write(lambda t: move(t, [last], State.QUEUED, "queued again"))
    assert registry.catalogue.jobs(sweep.id) == before
    assert registry.history.events() == []


def test_what_becomes_of_single_jobs_is_written_with_what_becomes_of_all(registry: Registry, sweep: Sweep) -> None:
    registry.sweeps.register(sweep.id, trained(2))
    rows = registry.catalogue.jobs(sweep.id)
    each = {row.id: {"slots_limit": number} for number, row in enumerate(rows)}
    registry._database.write(lambda t: move(t, rows, State.RUNNING, "", values={"agent_id": 7}, each=each, agent_id=7))
    assert [(row.agent_id, row.slots_limit) for row in registry.catalogue.jobs(sweep.id)] == [(7, 0), (7, 1)]
