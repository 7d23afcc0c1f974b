"""Launching a sweep: check, register, start agents, watch until everything is done."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from db.home import Home
from db.registry import Registry
from db.rows import Scope, Sweep
from orchestrator.backends.base import Backend, Fleet
from orchestrator.freezing import Code, choose_code
from orchestrator.kept_models import check_models
from orchestrator.machine import Machine, probe
from orchestrator.registration import find_launched, register
from orchestrator.selection import Selection
from orchestrator.watch import Watch
from sweeps.code import code_version, freeze


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a sweep is run: what a user asks of one launch, and no job depends on."""

    workers: int | None
    """Agents; None is as many as the machine holds."""
    lease: float
    time_limit: float | None
    detach: bool


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
    known, finished = find_launched(home, selection)
    check_models(home, selection)
    if known is not None and finished:
        version, machine = known.code, None
    else:
        version = choose_code(known, code)
        machine = probe(home, sorted({job.training.data.name for job in selection.chosen}))
    registry, sweep, words = register(home, selection, code=version)
    console.print(f"{selection.title}: {words}", highlight=False, soft_wrap=True)
    with registry:
        if machine is None:
            console.print("Nothing to do: every job is done.")
            return sweep
        whole = len(selection.chosen) == len(selection.jobs)
        scope = Scope(sweep=sweep.id, selection=None if whole else registry.select(selection.chosen))
        see_through(home, registry, sweep, backend, console, execution, machine=machine, scope=scope)
    return sweep


def see_through(
    home: Home,
    registry: Registry,
    sweep: Sweep,
    backend: Backend,
    console: Console,
    execution: Execution,
    *,
    machine: Machine,
    scope: Scope,
) -> None:
    """Start agents for a registered sweep, or a selection of it; unless detached, watch it to its end."""
    if sweep.code == code_version():
        freeze(home.code)
    registry.reactivate(sweep.id)
    fleet = Fleet(
        home=home,
        workers=execution.workers or machine.agents,
        gpus=machine.gpus,
        lease=execution.lease,
        time_limit=execution.time_limit,
        scope=scope,
        code=sweep.code,
    )
    if execution.detach:
        backend.start(fleet)
        console.print(f"{fleet.workers} agents started; look with: qsweep status {sweep.name}")
        return
    Watch(home, registry, sweep, backend, fleet, console).run()
