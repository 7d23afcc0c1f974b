"""What is answered: `tables`, `figures` and `analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.look import opened
from orchestrator.options import DEFAULT_HOME, HomeOption, RegistryOption, SweepArgument, home_of
from reports.render import Format
from sweeps.errors import InputError


def add_to(app: typer.Typer) -> None:
    app.command("tables", epilog="Example: qsweep tables cifar10-grid --against-paper --format latex")(tables)
    app.command("figures", epilog="Example: qsweep figures digits-flatness --out figures")(figures)
    app.command("analyze", epilog="Example: qsweep analyze --paper")(analyze)


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


def figures(
    name: SweepArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the pictures.")] = Path("figures"),
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Draw the paper's Figure 1, the step sizes of the layers, from the results so far."""
    from reports.figures import draw_step_sizes

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = found.find_sweep(name)
        for path in draw_step_sizes(place, found, sweep, out):
            typer.echo(str(path))


def analyze(
    paper: Annotated[
        bool, typer.Option("--paper", help="What the paper's Tables 2 and 3 imply: σ, α, ‖w₀‖, saturation.")
    ] = False,
) -> None:
    """Analyze results; so far those of the paper."""
    from reports.inversion import render_paper

    if not paper:
        raise InputError("say what to analyze", place="analyze", allowed="allowed: --paper")
    typer.echo(render_paper(), nl=False)
