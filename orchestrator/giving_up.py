"""What cancelling and retrying a sweep take beside the registry: its agents in queues, and the files that are gone."""

from __future__ import annotations

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Cancelled, Sweep
from qsweep.db.states import State
from qsweep.orchestrator.backends.choice import BackendName, backend_class
from qsweep.orchestrator.dead_agents import mark_dead_agents
from qsweep.orchestrator.starts import by_backend, recorded
from qsweep.sweeps.chains import with_all_above
from qsweep.sweeps.errors import QsweepError


def withdraw(home: Home, registry: Registry, sweep: Sweep) -> tuple[Cancelled, list[str]]:
    """Cancel the sweep, and take its agents back that wait in queues: what was cancelled, and what could not be."""
    mark_dead_agents(registry)
    done = registry.sweeps.cancel(sweep.id)
    problems = []
    for backend, starts in by_backend(recorded(home, sweep.id)).items():
        try:
            backend_class(BackendName(backend)).withdraw(starts)
        except QsweepError as error:  # the sweep is cancelled all the same: its agents will find nothing
            problems.append(f"agents may still wait in a queue: {error}")
    return done, problems


def without_file(home: Home, registry: Registry, sweep: Sweep, state: State) -> set[int]:
    """The jobs above the sweep's ended ones whose kept file is not in the home any more."""
    parents = {row.parent_id for row in registry.catalogue.jobs(sweep.id, state=state) if row.parent_id is not None}
    done = {row.id: row for row in registry.catalogue.jobs(sweep.id, state=State.DONE)} if parents else {}
    above = with_all_above(parents, {row.id: row.parent_id for row in done.values()})
    kept = [row for row in done.values() if row.id in above and row.model_file]
    return {row.id for row in kept if not (home.models / str(row.model_file)).is_file()}
