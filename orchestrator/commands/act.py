"""What is done to a launched sweep: `retry`, `cancel` and `invalidate`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from db.states import FailureClass, State
from orchestrator.commands.look import opened
from orchestrator.options import DEFAULT_HOME, HomeOption, RegistryOption, SweepArgument, WhereOption, home_of
from sweeps.errors import QsweepError


class Ended(StrEnum):
    """The states that a job can be retried from."""

    FAILED = "failed"
    CANCELLED = "cancelled"


def add_to(app: typer.Typer) -> None:
    app.command("retry", epilog="Example: qsweep retry digits-grid --class crash")(retry)
    app.command("cancel", epilog="Example: qsweep cancel digits-grid")(cancel)
    app.command(
        "invalidate", epilog="Example: qsweep invalidate digits-grid --where 'bits == 2' --reason 'wrong step size'"
    )(invalidate)


def retry(
    name: SweepArgument,
    state: Annotated[Ended, typer.Option("--state", help="Which jobs.")] = Ended.FAILED,
    failure: Annotated[FailureClass | None, typer.Option("--class", help="Only failures of this class.")] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Queue a sweep's failed (or cancelled) jobs again, with fresh budgets."""
    with opened(home_of(home, registry)) as found:
        sweep = found.find_sweep(name)
        count = found.retry(sweep.id, State(state.value), failure_class=failure)
    typer.echo(f"{sweep.title}: {count} jobs queued again; run them with: qsweep resume {sweep.title}")


def cancel(name: SweepArgument, home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None) -> None:
    """Withdraw a sweep: its unfinished jobs stop, unless another sweep wants them. Results stay."""
    from orchestrator.backends.choice import BackendName, backend_class
    from orchestrator.starts import by_backend, recorded

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = found.find_sweep(name)
        count = found.cancel(sweep.id)
    for backend, starts in by_backend(recorded(place, sweep.id)).items():
        try:
            backend_class(BackendName(backend)).withdraw(starts)
        except QsweepError as error:  # the sweep is cancelled all the same: its agents will find nothing
            typer.echo(f"note: agents may still wait in a queue: {error}", err=True)
    typer.echo(f"{sweep.title}: {count} jobs cancelled")


def invalidate(
    name: SweepArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays with the old attempts.")],
    where: WhereOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Discard results and re-run the jobs and their children. No file is deleted."""
    from sweeps.spec import select

    with opened(home_of(home, registry)) as found:
        sweep = found.find_sweep(name)
        done = {row.identity: row for row in found.jobs(sweep.id, state=State.DONE)}
        chosen = select([row.job for row in done.values()], where=where) if done else []
        count = found.invalidate([done[job.identity].id for job in chosen], reason)
    results = "result" if count == 1 else "results"
    typer.echo(
        f"{sweep.title}: {count} {results} invalidated, jobs re-queued; run them with: qsweep resume {sweep.title}"
    )
