"""What is done to a launched sweep: `retry` and `cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from db.states import FailureClass
from orchestrator.commands.look import opened
from orchestrator.options import DEFAULT_HOME, HomeOption, RegistryOption, SweepArgument, home_of


def add_to(app: typer.Typer) -> None:
    app.command("retry", epilog="Example: qsweep retry digits-grid --class crash")(retry)
    app.command("cancel", epilog="Example: qsweep cancel digits-grid")(cancel)


def retry(
    name: SweepArgument,
    failure: Annotated[FailureClass | None, typer.Option("--class", help="Only failures of this class.")] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Queue a sweep's failed jobs again, with fresh budgets."""
    with opened(home_of(home, registry)) as found:
        sweep = found.find_sweep(name)
        count = found.retry(sweep.id, failure_class=failure)
    typer.echo(f"{sweep.title}: {count} jobs queued again; run them with: qsweep resume {sweep.title}")


def cancel(name: SweepArgument, home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None) -> None:
    """Withdraw a sweep: its unfinished jobs stop, unless another sweep wants them. Results stay."""
    with opened(home_of(home, registry)) as found:
        sweep = found.find_sweep(name)
        count = found.cancel(sweep.id)
    typer.echo(f"{sweep.title}: {count} jobs cancelled")
