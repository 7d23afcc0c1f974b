"""What is answered: `query`, `tables`, `figures`, `report` and `analyze`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    RegistryOption,
    complete_launched,
    home_of,
    size_text,
)
from qsweep.orchestrator.terminal import write_bytes, write_json
from qsweep.reports.formats import FileFormat, Format, Picture, RowFormat, Tracker
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import write_whole

if TYPE_CHECKING:
    from qsweep.reports.render import Layout
    from qsweep.reports.source import Source
    from qsweep.reports.table import Table


OptionalSweepArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A launched sweep: NAME (as written) or NAME@VARIANT. Not needed with --from.",
        autocompletion=complete_launched,
    ),
]
SHOWN_ROWS = 100
"""Rows of an answer that a terminal shows."""

SpreadsheetOption = Annotated[
    bool,
    typer.Option(
        "--spreadsheet", help="In CSV, let spreadsheets take cells that begin with = + - @ for text: ' before them."
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Answer from this exported bundle instead of a registry."),
]


def add_to(app: typer.Typer) -> None:
    app.command("query", epilog="Example: qsweep query 'SELECT bits, avg(test_loss) FROM runs GROUP BY bits'")(query)
    app.command("tables", epilog="Example: qsweep tables cifar10-grid --against-paper --format latex")(tables)
    app.command("export", epilog="Example: qsweep export digits-grid --out digits-grid-results")(export)
    app.command("figures", epilog="Example: qsweep figures digits-flatness --out figures")(figures)
    app.command("report", epilog="Example: qsweep report digits-grid --out digits.html")(report)
    app.command("analyze", epilog="Example: qsweep analyze digits-grid")(analyze)


def query(
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="One SELECT, in DuckDB's dialect; - reads it from stdin.")
    ] = None,
    form: Annotated[RowFormat, typer.Option("--format", help="How to write the answer.")] = RowFormat.TABLE,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to a file.")] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="NAME", help="Only this sweep.", autocompletion=complete_launched)
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="List the views that SQL may name.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="List the columns of a view (named instead of SQL), or of every view.")
    ] = False,
    spreadsheet: SpreadsheetOption = False,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask results and registry by SQL, read-only, while sweeps run or after."""
    from qsweep.orchestrator.arrow import spare_numpy

    if form is not RowFormat.PARQUET:  # which says of each column what pandas makes of it
        spare_numpy()
    from qsweep.orchestrator.layout import say, width_of
    from qsweep.reports.listing import written
    from qsweep.reports.opening import all_sources
    from qsweep.reports.query import describe_columns, describe_views, run_query

    if as_json:
        _check_alone(form, RowFormat.TABLE, RowFormat.JSON)
        form = RowFormat.JSON
    _check_spreadsheet(spreadsheet, form)
    if tables:
        answer = describe_views()
    elif schema:
        answer = describe_columns(sql)
    else:
        with all_sources(home_of(home, registry), sweep=sweep, bundle=bundle) as sources:
            found = run_query(_given(sql), sources)
        answer = found.table
        for note in found.notes:
            say(f"note: {note}", err=True)
    if form is RowFormat.PARQUET and out is None and sys.stdout.isatty():
        raise InputError("Parquet is not for terminals", place="--format parquet", allowed="name a file by --out")
    width = width_of(sys.stdout) if out is None else None
    rows = None if tables or schema else SHOWN_ROWS
    content = written(answer, form, width=width, rows=rows, spreadsheet=spreadsheet)
    deliver(content.decode() if form is RowFormat.TABLE else content, out)


def _check_alone(given: StrEnum, default: StrEnum, json_form: StrEnum) -> None:
    """Raise InputError where `--json` stands beside another format."""
    if given not in (default, json_form):
        raise InputError(f"--json and --format {given} exclude each other", place="--json", allowed="give one of them")


def _check_spreadsheet(wanted: bool, form: StrEnum) -> None:
    if wanted and form.value != "csv":
        raise InputError(f"{form} is not for spreadsheets", place="--spreadsheet", allowed="add --format csv")


def _given(sql: str | None) -> str:
    if sql is None:
        raise InputError("no query given", place="query", allowed="see --tables and --schema")
    return sys.stdin.read() if sql == "-" else sql


def deliver(content: str | bytes, out: Path | None) -> None:
    """Write an answer to stdout, or to a file that appears whole.

    A file and bytes are in UTF-8; a text on stdout in the encoding of the terminal.
    """
    if out is None:
        if isinstance(content, bytes):
            write_bytes(content)
        else:
            typer.echo(content, nl=False)
        return
    try:
        write_whole(out, content.encode() if isinstance(content, str) else content, tidy=True)
    except OSError as error:
        raise InputError(f"this file can't be written: {error.strerror}", place=f"--out {out}") from None
    typer.echo(str(out), err=True)


def tables(
    name: OptionalSweepArgument = None,
    chosen: Annotated[
        str | None,
        typer.Option("--table", metavar="N|NAME|FILE", help="Only this one, or one that a FILE.toml declares."),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="How to write the tables.", show_default="drawn on a terminal, else markdown"),
    ] = None,
    against_paper: Annotated[
        bool, typer.Option("--against-paper", help="Put the paper's values beside; differences for the same data.")
    ] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="Add standard errors (of medians: deviations), and counts that differ.")
    ] = False,
    median: Annotated[bool, typer.Option("--median", help="Medians in place of means (tables of means only).")] = False,
    cell: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="CELL", help="Show the jobs behind a table cell, e.g. Digits/NiN/Int2/test_loss."
        ),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write them to a file.")] = None,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the sweep's tables, such as the paper's, from the results so far."""
    from qsweep.orchestrator.arrow import spare_numpy

    spare_numpy()
    from qsweep.orchestrator.layout import show_tables, width_of
    from qsweep.reports.answers import make_tables
    from qsweep.reports.opening import opened_source
    from qsweep.reports.render import Layout, render_all, sheet_of

    shape = form or Format.MARKDOWN
    if as_json:
        _check_alone(shape, Format.MARKDOWN, Format.JSON)
        shape = Format.JSON
    _check_spreadsheet(spreadsheet, shape)
    layout = Layout(against_paper=against_paper, spread=spread, spreadsheet=spreadsheet)
    with opened_source(name, home_of(home, registry), bundle) as source:
        typer.echo(source.title, err=True)
        made = make_tables(source, chosen, median=median)
        if not made:
            why = "no run has returned a number so far" if source.spec.calls else "the sweep declares none"
            typer.echo(f"no tables: {why}", err=True)
        if cell is not None:
            width = None if out else width_of(sys.stdout)
            text = _explained(source, made, cell, shape, layout, width)
        elif form is None and shape is Format.MARKDOWN and out is None:
            show_tables([sheet_of(one, layout) for one in made])
            return
        else:
            text = render_all(made, shape, layout)
    deliver(text.encode() if shape in (Format.CSV, Format.JSON) else text, out)


def _explained(
    source: Source, tables: Sequence[Table], cell: str, form: Format, layout: Layout, width: int | None
) -> str:
    from qsweep.reports.explanation import explain, told
    from qsweep.reports.listing import written

    rows = {Format.CSV: RowFormat.CSV, Format.JSON: RowFormat.JSON}
    if form is not Format.MARKDOWN and form not in rows:
        raise InputError(f"an explanation is not {form}", place="--format", allowed="allowed: markdown, csv, json")
    found = explain(source, tables, cell)
    if form is Format.MARKDOWN:
        return told(found, width)
    return written(found.jobs, rows[form], spreadsheet=layout.spreadsheet).decode()


def export(
    name: OptionalSweepArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new or empty folder.", show_default="needed")
    ] = None,
    tracker: Annotated[
        Tracker | None,
        typer.Option("--to", help="One run a finished job for this program.", show_default="a bundle"),
    ] = None,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export the committed results: a bundle to publish, from which every table comes by --from, or tracker runs."""
    from qsweep.orchestrator.layout import say
    from qsweep.reports.bundle import write_bundle
    from qsweep.reports.opening import opened_source
    from qsweep.reports.trackers import export_to

    if out is None:
        raise InputError("an output folder is required", place="export", allowed="name a new folder by --out DIR")
    with opened_source(name, home_of(home, registry), bundle, together=("jobs", "attempts", "events")) as source:
        typer.echo(source.title, err=True)
        if tracker is None:
            files = write_bundle(source, out)["files"]
            if as_json:
                write_json({"sweep": source.title, "out": str(out), "files": files})
                return
            size = sum(entry["bytes"] for entry in files)
            rows = ", ".join(f"{entry['rows']} {Path(entry['file']).stem}" for entry in files if entry["rows"])
            say(f"{out}: {rows}; {size_text(size)}")
        else:
            count = export_to(tracker, source, out, told=_tell)
            if as_json:
                write_json({"sweep": source.title, "out": str(out), "tracker": tracker.value, "runs": count})
                return
            typer.echo(f"{out}: {count} runs for {tracker}")


def _tell(count: int) -> None:
    """Progress of an export, now and then."""
    if count % 100 == 0:
        typer.echo(f"{count} runs", err=True)


FigureOption = Annotated[
    list[Picture] | None,
    typer.Option("--figure", help="Only this figure; may be given again.", show_default="all of them"),
]


def figures(
    name: OptionalSweepArgument = None,
    chosen: FigureOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the figures.")] = Path("figures"),
    form: Annotated[FileFormat, typer.Option("--format", help="How to write them.")] = FileFormat.PDF,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the paper's Figure 1 (step-sizes), curves, effects of settings and more from the results so far."""
    from qsweep.reports.evidence import VIEWS, gather
    from qsweep.reports.figures import draw_figures
    from qsweep.reports.opening import opened_source

    with opened_source(name, home_of(home, registry), bundle, together=VIEWS) as source:
        typer.echo(source.title, err=True)
        tell = None if as_json else (lambda path: typer.echo(str(path)))
        files = [str(path) for path in draw_figures(gather(source), out, chosen=chosen or (), form=form, tell=tell)]
    if as_json:
        write_json(files)


def report(
    name: OptionalSweepArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page.", show_default="NAME.html")
    ] = None,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Write a self-contained HTML report: tables, claims, plots, failures."""
    from qsweep.reports.evidence import VIEWS, gather
    from qsweep.reports.opening import opened_source
    from qsweep.reports.page import render_page

    with opened_source(name, home_of(home, registry), bundle, together=VIEWS) as source:
        page = render_page(gather(source))
    deliver(page, out or Path(f"{source.called}.html"))


def analyze(
    name: OptionalSweepArgument = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Review the paper's tables by their formulas and other publications."),
    ] = False,
    margin: Annotated[
        float,
        typer.Option(min=0, max=1, help="8 bits equal FP32 within this share of FP32's mean loss or gap …"),
    ] = 0.05,
    accuracy_margin: Annotated[float, typer.Option(min=0, max=1, help="… and this difference of accuracy.")] = 0.005,
    resamples: Annotated[
        int,
        typer.Option(min=100, max=1_000_000, help="Permutations drawn where there are too many to try."),
    ] = 9_999,
    seed: Annotated[int, typer.Option(min=0, help="Of the permutations that are drawn.")] = 0,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test the paper's claims, compare precisions, and rank what correlates with the generalization gap; of functions
    and commands of yours: which settings their numbers go with."""
    from qsweep.orchestrator.layout import show_document
    from qsweep.reports.analysis.analysis import Options
    from qsweep.reports.analysis.claims import Margins
    from qsweep.reports.analysis.correlation import Resampling
    from qsweep.reports.analysis.explained import returned_content, returned_parts
    from qsweep.reports.analysis.text import analysis_content, analysis_parts
    from qsweep.reports.evidence import gather
    from qsweep.reports.opening import opened_source
    from qsweep.reports.review import review_content, review_parts

    if paper and (name or bundle):
        raise InputError("--paper is about the paper's own tables", place="analyze", allowed="without NAME and --from")
    if paper:
        if as_json:
            write_json(review_content())
        else:
            show_document(review_parts())
        return
    options = Options(
        resampling=Resampling(resamples=resamples, seed=seed),
        margins=Margins(relative=margin, accuracy=accuracy_margin),
    )
    with opened_source(name, home_of(home, registry), bundle) as source:
        typer.echo(source.title, err=True)
        evidence = gather(source, options)
    if (found := evidence.returned) is not None:
        if as_json:
            write_json(returned_content(evidence.title, found, evidence.explained))
        else:
            show_document(returned_parts(evidence.title, found, evidence.explained))
    elif as_json:
        write_json(analysis_content(evidence.analysis))
    else:
        show_document(analysis_parts(evidence.analysis))
