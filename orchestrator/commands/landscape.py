"""What lies around trained models: `landscape`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    DataOption,
    HomeOption,
    JsonOption,
    LimitOption,
    RegistryOption,
    WhereOption,
    WorkersOption,
    complete_launched,
    home_of,
)
from qsweep.orchestrator.terminal import write_json
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsweep.db.home import Home
    from qsweep.orchestrator.surveying import Wanted
    from qsweep.reports.landscape.grid import Grid


class Perturbed(StrEnum):
    """Which weights of a quantized model are moved."""

    LATENT = "latent"
    QUANTIZED = "quantized"


class Height(StrEnum):
    """How the loss is drawn."""

    LOG = "log"
    LINEAR = "linear"


def add_to(app: typer.Typer) -> None:
    app.command("landscape", epilog="Example: qsweep landscape digits-grid --limit 4 --points 25")(landscape)


def landscape(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB|NAME", help="Trained jobs, or launched sweeps.", autocompletion=complete_launched),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option("--between", metavar="JOB JOB", help="The straight line from one trained model to another."),
    ] = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    line: Annotated[bool, typer.Option("--line", help="Along one direction instead of a plane.")] = False,
    points: Annotated[int, typer.Option("--points", metavar="N", help="Points a side, or of a line.")] = 51,
    radius: Annotated[float, typer.Option("--radius", help="Of the plane: 1 is the norm of every filter.")] = 1.0,
    perturb: Annotated[
        Perturbed | None,
        typer.Option(
            "--perturb",
            help="Move the latent weights, which are then rounded, or the quantized ones.",
            show_default="latent; quantized between models of two precisions",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Training images that decide, of each class alike; 0: all.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the directions and the sample.")] = 0,
    scale: Annotated[Height, typer.Option("--scale", help="Of the loss in figures and .vtp.")] = Height.LOG,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of grids and pictures.")] = Path(
        "landscape"
    ),
    workers: WorkersOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute and draw the loss around kept models (Figure 2 of the paper), or on the line between two.

    Writes to DIR: Parquet of every grid, surfaces and contours with one scale for all precisions of a
    configuration, an interactive page, and .vtp for ParaView. The same command again goes on where it stopped.
    """
    from qsweep.db.belonging import check_belonging
    from qsweep.db.registry import Registry
    from qsweep.orchestrator.surveying import Wanted, check_quantized, choose_models
    from qsweep.sweeps.kinds import QUANTIZATION
    from qsweep.sweeps.landscape import BETWEEN, LINE, PLANE, Landscape, check_pair, rounding

    place = home_of(home, registry, data)
    if bool(targets) == (between is not None):
        raise InputError("name jobs or sweeps, or two jobs by --between JOB JOB", place="landscape")
    if between is not None and line:
        raise InputError("a line between two models has no direction to choose", place="--line")
    view = BETWEEN if between is not None else LINE if line else PLANE
    given = {"view": view, "points": points, "radius": radius, "samples": samples, "seed": seed}
    asked = Landscape.from_settings(given | ({} if perturb is None else {"perturb": perturb.value}))
    with Registry.open(place.registry) as opened:
        check_belonging(place, opened)
        chosen = choose_models(place, opened, targets or between or (), where=where, limit=limit)
    for note in chosen.notes:
        typer.echo(f"note: {note}", err=True)
    trainings = [row.job.training for row in chosen.rows]
    if between is not None:
        if len(trainings) != 2:
            raise InputError("these are not two different jobs", place="--between")
        if check_quantized(chosen.rows):
            asked = Landscape.from_settings(asked.settings() | {"perturb": "quantized"})
        if perturb is None and rounding(trainings[0]) != rounding(trainings[1]):
            asked = Landscape.from_settings(asked.settings() | {"perturb": "quantized"})
        check_pair(trainings[0], trainings[1], asked)
    for training in trainings:
        asked.images(training)
    grids_folder = _folder(out)
    if between is not None:
        wanted = [Wanted(asked=asked, rows=chosen.rows, folder=grids_folder)]
    else:
        wanted = [
            Wanted(
                asked=asked.asked_of(row.job.training, quantized=row.job.kind is QUANTIZATION),
                rows=(row,),
                folder=grids_folder,
            )
            for row in chosen.rows
        ]
    files = [str(path) for path in _draw(_computed(place, wanted, workers), out, scale)]
    if as_json:
        write_json(files)
        return
    for file in files:
        typer.echo(file)


def _folder(out: Path) -> Path:
    """The folder of the grids, made. Raises InputError."""
    folder = out / "grids"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"nothing can be written there: {error.strerror}", place=f"--out {out}") from None
    return folder


def _computed(home: Home, wanted: Sequence[Wanted], workers: int | None) -> list[Grid]:
    """Every landscape: those that are there, and those that were missing, with a bar over the points."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from qsweep.orchestrator.layout import tell
    from qsweep.orchestrator.machine import probe
    from qsweep.orchestrator.screen import Screen
    from qsweep.orchestrator.surveying import survey
    from qsweep.orchestrator.warming import LANDSCAPE, warm_up

    found = {one.identity: one.found() for one in wanted}
    missing = [one for one in wanted if found[one.identity] is None]
    kept = len(wanted) - len(missing)
    typer.echo(
        f"{counted(len(wanted), 'landscape')} of {wanted[0].asked.size:,} points, {kept} there already", err=True
    )
    if missing:
        warm_up(home, LANDSCAPE)
        machine = probe(home, jobs=[row.job for one in missing for row in one.rows])
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Screen()
        with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("points", total=sum(one.asked.size for one in missing))
            agents = workers or machine.agents
            computed = survey(home, machine, missing, agents=agents, tell=lambda count: bar.advance(task, count))
            try:
                for grid in computed:
                    found[grid.identity] = grid
                    seconds = grid.provenance["seconds"]
                    tell(console, f"{grid.precision} of {_jobs(grid)}: {seconds:.1f} s of compute")
            except KeyboardInterrupt:
                done = sum(grid is not None for grid in found.values())
                tell(console, f"interrupted with {done} landscapes done; run the same command to resume")
                raise
    return [grid for grid in found.values() if grid is not None]


def _jobs(grid: Grid) -> str:
    return " and ".join(job[:12] for job in grid.jobs)


def _draw(grids: list[Grid], out: Path, scale: Height) -> list[Path]:
    """Everything that is made of the grids; its files."""
    from qsweep.orchestrator.commands.answer import deliver
    from qsweep.reports.landscape.figures import Scale, draw_landscapes
    from qsweep.reports.landscape.grid import configurations
    from qsweep.reports.landscape.page import render_page
    from qsweep.reports.landscape.paraview import write_polydata
    from qsweep.sweeps.landscape import PLANE

    for grid in grids:
        if grid.provenance["cosine"] is not None:
            typer.echo(
                f"{grid.precision} of {_jobs(grid)}: cosine of d₁ and d₂ {grid.provenance['cosine']:+.4f}", err=True
            )
    groups = configurations(grids)
    files = [
        *draw_landscapes(groups, out / "figures", Scale(scale.value)),
        *(
            write_polydata(grid, out / "vtp" / f"{grid.name}.vtp", logarithm=scale is Height.LOG)
            for grid in grids
            if grid.asked.view == PLANE
        ),
    ]
    deliver(render_page(groups, scale=scale.value), out / "landscape.html")
    return files
