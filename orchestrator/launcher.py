"""Launching a sweep: check, register, start agents, watch until everything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from db.home import Home
from db.losses import counted, find_gone
from db.registry import Registry
from db.rows import Scope, Sweep
from orchestrator.backends.base import Backend, Fleet, Site, StartRefused
from orchestrator.backends.local import serves, worker_environment
from orchestrator.corrupted_sets import check_corruptions
from orchestrator.data_folders import check_data
from orchestrator.freezing import Code, choose_code, keep_code
from orchestrator.kept_models import check_models
from orchestrator.layout import tell
from orchestrator.machine import Machine, probe
from orchestrator.reach import check_reach
from orchestrator.registration import find_launched, register
from orchestrator.selection import Selection
from orchestrator.store import check_store
from orchestrator.watch import Watch
from sweeps import processes
from sweeps.job import Job

AGENT = ("workers.probe", "workers.agent.__main__", "orchestrator.supervisor")
"""What a probe, a supervisor and its agent import."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a sweep is run: what a user asks of one launch, and no job depends on."""

    workers: int | None
    """Agents; None is as many as there is room for."""
    lease: float
    time_limit: float | None
    detach: bool
    results: str | None = None
    """URL of the results, if they shall not lie in the home."""
    weights: tuple[Path, ...] = ()
    """Files, or folders of them, that trainings may start from."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a sweep will run, looked at before anything is registered."""

    machine: Machine
    site: Site


def survey(home: Home, backend: Backend, execution: Execution, jobs: Sequence[Job]) -> Ground:
    """Look at this machine, its data and the backend's cluster. Raises InputError; changes nothing.

    What needs no torch comes first. The process that answers then imports torch once: the agents of this machine are
    forked from it, if any are started here.
    """
    backend.check(home, execution.workers)
    check_data(home, jobs)
    processes.warm_up(*AGENT, environment=worker_environment(home, threads=1))
    machine = probe(home, jobs=jobs, weights=execution.weights)
    site = backend.survey(machine, execution.workers)
    check_reach(home, site.hosts)
    backend.check_home(home)
    return Ground(machine=machine, site=site)


def launch(
    home: Home,
    selection: Selection,
    backend: Backend,
    console: Console,
    execution: Execution,
    *,
    code: Code | None,
) -> Sweep:
    """Register the selection and see it through; the sweep. Raises InputError before anything is written."""
    home.check()
    check_store(home, execution.results)
    known, finished = find_launched(home, selection, results=execution.results)
    check_models(home, selection)
    if known is not None and finished:
        version, ground = known.code, None
    else:
        check_corruptions(home, selection)
        version = choose_code(known, code)
        ground = survey(home, backend, execution, selection.chosen)
    registry, sweep, words = register(home, selection, known, code=version, results=execution.results)
    tell(console, f"{selection.title}: {words}")
    if sweep.written_at is None:
        tell(console, f"a variant of its own: name it {sweep.title} from now on")
    with registry:
        if ground is None:
            tell(console, _nothing_to_do(home, registry, sweep, selection))
            return sweep
        whole = len(selection.chosen) == len(selection.jobs)
        scope = Scope(sweep=sweep.id, selection=None if whole else registry.select(selection.chosen))
        see_through(home, registry, sweep, backend, console, execution, ground, scope=scope)
    return sweep


def _nothing_to_do(home: Home, registry: Registry, sweep: Sweep, selection: Selection) -> str:
    """What there is to say where every job is done: unless files are gone that its answers need."""
    chosen = {job.identity for job in selection.chosen}
    lost = [one for one in find_gone(home, registry, sweep.id) if one.job in chosen]
    if not lost:
        return "Nothing to do: every job is done."
    return (
        f"Nothing is queued, but the results of {counted({one.job for one in lost})} are lost ({lost[0].kind}: "
        f"{lost[0].file} {lost[0].why}). To compute them again: qsweep db check --repair, then launch again"
    )


def see_through(
    home: Home,
    registry: Registry,
    sweep: Sweep,
    backend: Backend,
    console: Console,
    execution: Execution,
    ground: Ground,
    *,
    scope: Scope,
) -> None:
    """Start agents for a registered sweep, or a selection of it; unless detached, watch it to its end."""
    keep_code(home, sweep.code)
    for one in ground.machine.weights:
        one.keep()
    registry.reactivate(sweep.id)
    fleet = Fleet(
        home=home,
        workers=ground.site.agents,
        gpus=ground.machine.gpus,
        lease=execution.lease,
        time_limit=execution.time_limit,
        scope=scope,
        title=sweep.title,
        code=sweep.code,
    )
    backend.adopt(fleet)
    if execution.detach:
        present = backend.alive() + backend.others([one for one in registry.agents() if serves(one, scope)])
        missing = max(fleet.workers - present, 0)
        try:
            words = backend.leave(missing)
        except StartRefused as error:
            if present + error.begun == 0:
                raise
            tell(console, f"note: {error}")
            words = "1 agent started" if error.begun == 1 else f"{error.begun} agents started"
        already = f" beside {present} that were there" if present else ""
        tell(console, f"{words}{already}; look with: qsweep status {sweep.called}")
        return
    Watch(home, registry, sweep, backend, fleet, console).run()
