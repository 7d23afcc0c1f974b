"""What is answered: `tables`, `figures` and `analyze`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.look import opened
from orchestrator.options import (
    DEFAULT_HOME,
    HomeOption,
    RegistryOption,
    SweepArgument,
    complete_sweep,
    home_of,
)
from reports.listing import RowFormat
from reports.render import Format
from sweeps.errors import InputError


SHOWN_ROWS = 100
"""Rows of an answer that a terminal shows."""

BundleOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Answer from this exported bundle instead of a registry."),
]


def add_to(app: typer.Typer) -> None:
    app.command("query", epilog="Example: qsweep query 'SELECT bits, avg(test_loss) FROM runs GROUP BY bits'")(query)
    app.command("tables", epilog="Example: qsweep tables cifar10-grid --against-paper --format latex")(tables)
    app.command("figures", epilog="Example: qsweep figures digits-flatness --out figures")(figures)
    app.command("analyze", epilog="Example: qsweep analyze --paper")(analyze)


def query(
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="One SELECT, in DuckDB's dialect; - reads it from stdin.")
    ] = None,
    form: Annotated[RowFormat, typer.Option("--format", help="How to write the answer.")] = RowFormat.TABLE,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to a file.")] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="NAME", help="Only this sweep.", autocompletion=complete_sweep)
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="List the views that SQL may name.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="List the columns of a view (named instead of SQL), or of every view.")
    ] = False,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Ask results and registry by SQL, read-only, while sweeps run or after."""
    from reports.listing import written
    from reports.query import describe_columns, describe_views, run_query
    from reports.source import all_sources

    if tables:
        answer = describe_views()
    elif schema:
        answer = describe_columns(sql)
    else:
        with all_sources(home_of(home, registry), sweep=sweep, bundle=bundle) as sources:
            answer = run_query(_given(sql), sources)
    if form is RowFormat.PARQUET and out is None and sys.stdout.isatty():
        raise InputError("Parquet is not for terminals", place="--format parquet", allowed="name a file by --out")
    bounded = out is None and sys.stdout.isatty() and not (tables or schema)
    width = shutil.get_terminal_size().columns if bounded else None
    deliver(written(answer, form, width=width, rows=SHOWN_ROWS if bounded else None), out)


def _given(sql: str | None) -> str:
    if sql is None:
        raise InputError("there is no SQL", place="query", allowed="to learn the names: --tables and --schema")
    return sys.stdin.read() if sql == "-" else sql


def deliver(content: bytes, out: Path | None) -> None:
    """Write an answer to stdout, or to a file that appears whole."""
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"this file can't be written: {error.strerror}", place=f"--out {out}") from None
    finally:
        temporary.unlink(missing_ok=True)
    typer.echo(str(out), err=True)


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
