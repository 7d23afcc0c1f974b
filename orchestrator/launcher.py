"""Launching a sweep: check, register, start agents, watch until everything is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsweep.db.home import Home
from qsweep.db.losses import counted, find_gone
from qsweep.db.registry import Registry
from qsweep.db.rows import Scope, Sweep
from qsweep.orchestrator.corrupted_sets import check_corruptions
from qsweep.orchestrator.data_folders import check_data, keep_arrays
from qsweep.orchestrator.freezing import Code, choose_code, choose_user_code, keep_code
from qsweep.orchestrator.kept_models import check_models
from qsweep.orchestrator.kept_probes import Found, forget, look
from qsweep.orchestrator.layout import say, tell
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.reach import check_reach
from qsweep.orchestrator.registration import find_launched, launch_again, register
from qsweep.orchestrator.selection import Selection
from qsweep.orchestrator.store import check_store
from qsweep.orchestrator.warming import warm_up_for
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec

if TYPE_CHECKING:
    from rich.console import Console

    from qsweep.orchestrator.backends.base import Backend, Site


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a sweep is run: what a user asks of one launch, and no job depends on."""

    workers: int | None
    """Agents; None is as many as there is room for."""
    lease: float
    time_limit: float | None
    detach: bool
    results: str | None = None
    """URL of the results, if they are not to lie in the home."""
    weights: tuple[Path, ...] = ()
    """Files, or folders of them, that trainings may start from."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a sweep will run, looked at before anything is registered."""

    found: Found
    site: Site

    @property
    def machine(self) -> Machine:
        return self.found.machine


def survey(home: Home, backend: Backend, execution: Execution, spec: Spec, jobs: Sequence[Job]) -> Ground:
    """Look at this machine, its data and the backend's cluster. Raises InputError; changes nothing but the folder of
    the data sets, which may get some.

    What needs no torch comes first. Where agents are started here, the process from which they are forked imports torch
    from then on: while this one goes on, if it knows from an earlier launch what this machine has.
    """
    backend.check(home, execution.workers)
    keep_arrays(home, spec, jobs)
    check_data(home, jobs)
    if not backend.independent:
        warm_up_for(home, calls=spec.calls)
    found = look(home, jobs, weights=execution.weights, codes=spec.sources)
    for one in found.machine.broken_promises:
        say(f"note: {one}", err=True)
    site = backend.survey(found.machine, execution.workers)
    check_reach(home, site.hosts)
    backend.check_home(home)
    return Ground(found=found, site=site)


def launch(
    home: Home,
    selection: Selection,
    backend: Callable[[], Backend],
    execution: Execution,
    *,
    code: Code | None,
) -> Sweep:
    """Register the selection and see it through; the sweep. Raises InputError before anything is written.

    `backend` is asked for, and what shows progress is imported, only if there is something to do.
    """
    home.check()
    check_store(home, execution.results)
    selection = choose_user_code(home, selection, code)
    known, finished = find_launched(home, selection, results=execution.results)
    check_models(home, selection)
    if known is not None and finished:
        version, ground, chosen = known.code, None, None
        launched = launch_again(home, selection, known, results=execution.results)
    else:
        launched = None
        check_corruptions(home, selection)
        version = choose_code(known, code)
        chosen = backend()
        ground = survey(home, chosen, execution, selection.spec, selection.chosen)
    registry, sweep, words = launched or register(home, selection, known, code=version, results=execution.results)
    say(f"{selection.title}: {words}", err=True)
    if sweep.written_at is None:
        say(f"a variant of its own: name it {sweep.title} from now on", err=True)
    with registry:
        if ground is None or chosen is None:
            say(_nothing_to_do(home, registry, sweep, selection), err=True)
            return sweep
        from qsweep.orchestrator.screen import Screen

        whole = len(selection.chosen) == len(selection.jobs)
        scope = Scope(sweep=sweep.id, selection=None if whole else registry.sweeps.select(selection.chosen))
        see_through(home, registry, sweep, chosen, Screen(), execution, ground, scope=scope)
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
    from qsweep.orchestrator.backends.base import Fleet, StartRefused
    from qsweep.orchestrator.backends.local import serves
    from qsweep.orchestrator.watch import Interrupted, Watch

    keep_code(home, sweep.code)
    ground.found.keep(home)
    for one in ground.machine.weights:
        one.keep()
    registry.sweeps.reactivate(sweep.id)
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
        present = backend.alive() + backend.others([one for one in registry.catalogue.agents() if serves(one, scope)])
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
    try:
        Watch(home, registry, sweep, backend, fleet, console).run()
    except Interrupted:
        raise
    except QsweepError:
        forget(home)  # the machine may not be any more what it was found to be
        raise
