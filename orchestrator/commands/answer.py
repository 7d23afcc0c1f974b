"""What is answered: `tables`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.look import opened
from orchestrator.options import DEFAULT_HOME, HomeOption, RegistryOption, SweepArgument, home_of
from reports.render import Format


def add_to(app: typer.Typer) -> None:
    app.command("tables", epilog="Example: qsweep tables cifar10-grid --against-paper --format latex")(tables)


def tables(
    name: SweepArgument,
    number: Annotated[int | None, typer.Option("--table", metavar="N", help="Only the paper's table N.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write the tables.")] = Format.MARKDOWN,
    against_paper: Annotated[
        bool, typer.Option("--against-paper", help="Put the paper's values and the differences beside.")
    ] = False,
    spread: Annotated[bool, typer.Option("--spread", help="Add the standard errors of the means.")] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Print the paper's tables from the results so far."""
    from reports.answers import render_tables
    from reports.render import Layout

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = found.find_sweep(name)
        typer.echo(f"{sweep.title}", err=True)
        layout = Layout(against_paper=against_paper, spread=spread)
        typer.echo(render_tables(place, found, sweep, form, layout, number=number), nl=False)
