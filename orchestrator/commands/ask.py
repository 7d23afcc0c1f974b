"""What is asked: `sweeps`, `plan`, `calibrate` and `images`."""

from __future__ import annotations

import json
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
    SetOption,
    SourceArgument,
    WhereOption,
    WorkersOption,
    complete_sweep,
    home_of,
)
from qsweep.orchestrator.terminal import write_json
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    from qsweep.orchestrator.calibrating import Trial


def add_to(app: typer.Typer) -> None:
    app.command("sweeps", epilog="Example: qsweep sweeps digits-grid")(sweeps)
    app.command("calibrate", epilog="Example: qsweep calibrate cifar10-grid --where 'bits == 2'")(calibrate)
    app.command("images", epilog="Example: qsweep images ~/data/flowers --size 224")(images)
    app.command("plan", epilog="Example: qsweep plan cifar10-grid --where 'bits == 2' --workers 4")(plan)


def sweeps(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", autocompletion=complete_sweep)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the built-in sweeps, or print one as TOML."""
    from qsweep.orchestrator.layout import show
    from qsweep.reports.sheet import Sheet, headings
    from qsweep.sweeps.files import builtin_names, read_sweep, source_text

    if name is not None:
        spec = read_sweep(name)
        typer.echo(spec.to_json() if as_json else source_text(name).rstrip())
        return
    rows = [(one, len(spec.jobs()), spec.title) for one in builtin_names() for spec in [read_sweep(one)]]
    if as_json:
        write_json([{"name": one, "jobs": jobs, "title": title} for one, jobs, title in rows])
        return
    show(
        Sheet(
            headings=headings("sweep", "jobs", "title", numeric=["jobs"], copied=["sweep"]),
            rows=tuple((one, f"{jobs}", title) for one, jobs, title in rows),
        )
    )


def plan(
    source: SourceArgument,
    changes: SetOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a sweep's jobs, cohorts, memory, disk and time. Nothing is started or written."""
    from qsweep.orchestrator.kept_probes import kept_machine
    from qsweep.orchestrator.layout import say, show
    from qsweep.orchestrator.machine import plain_machine, probe
    from qsweep.orchestrator.outlook import cohort_sheet, known_jobs, look_ahead, nothing_ahead
    from qsweep.orchestrator.selection import read_selection

    selection = read_selection(source, changes=changes or (), where=where, limit=limit)
    place = home_of(home, registry, data)
    known = known_jobs(place)
    if not as_json and not known.left(selection.chosen):
        ahead = nothing_ahead(selection)
    else:
        plain = plain_machine() if selection.spec.calls else None
        machine = plain or kept_machine(place) or probe(place, [], download=False)
        ahead = look_ahead(place, selection, machine, workers, known)
    made = ahead.plan
    if as_json:
        from dataclasses import asdict

        content = {"sweep": selection.title, "jobs": made.jobs, "done": ahead.done, "device": ahead.device}
        write_json(content | asdict(made) | {"notes": ahead.notes})
        return
    say(
        f"{selection.title}: {len(selection.chosen)} of {counted(len(selection.jobs), 'job')}, "
        f"{ahead.done} of them done"
    )
    for note in (*selection.warnings(), *ahead.notes):
        say(f"note: {note}")
    show(cohort_sheet(made.cohorts))
    for line in ahead.summary():
        say(line)


def calibrate(
    source: SourceArgument,
    changes: SetOption = None,
    where: WhereOption = None,
    workers: WorkersOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time of each measurement.")] = 3.0,
    again: Annotated[bool, typer.Option("--again", help="Measure, and replace, what is recorded already.")] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure on this machine which form and how many models side by side train a sweep's shapes fastest.

    The choice is recorded for this kind of device and build of torch, and every later training of such a
    shape here follows it. A shape that is recorded already is left as it is.
    """
    from dataclasses import asdict

    from qsweep.db.registry import Registry
    from qsweep.orchestrator.calibrating import calibrate as measure
    from qsweep.orchestrator.calibrating import training_shapes
    from qsweep.orchestrator.data_folders import check_data, keep_arrays
    from qsweep.orchestrator.layout import say
    from qsweep.orchestrator.machine import probe
    from qsweep.orchestrator.selection import read_selection
    from qsweep.orchestrator.warming import CALIBRATION, warm_up
    from qsweep.sweeps.user_code import keep_user_code

    selection = read_selection(source, changes=changes or (), where=where)
    jobs = selection.chosen
    place = home_of(home, registry, data)
    place.check()
    keep_arrays(place, selection.spec, jobs)
    for one in selection.spec.sources:
        keep_user_code(place.user_code, one)
    check_data(place, jobs)
    warm_up(place, CALIBRATION)
    machine = probe(place, jobs=jobs)

    def tell(trial: Trial) -> None:
        typer.echo(_trial_text(trial), err=True)

    shapes = training_shapes(jobs)
    say(f"{counted(len(shapes), 'shape')} on {machine.device}, torch {machine.torch}", err=True)
    with Registry.open(place.registry, create=True) as opened:
        choices = measure(
            place, opened, machine, jobs, agents=workers or machine.agents, seconds=seconds, again=again, tell=tell
        )
        if as_json:
            write_json([asdict(choice) for choice in choices])
            return
        for choice in choices:
            recorded = choice.recorded
            how = "as recorded before" if choice.kept else "the fastest here"
            say(f"{choice.shape:<50} {recorded.form}, {counted(recorded.slots, 'slot')}: {how}")


def _trial_text(trial: Trial) -> str:
    from qsweep.orchestrator.options import size_text

    what = f"  {trial.form:<16} {trial.slots:>3} slots"
    if trial.problem:
        return f"{what}  not available: {trial.problem}"
    if not trial.rate:
        return f"{what}  does not fit into memory"
    return f"{what}  {trial.rate:>9.1f} model-steps/s  {size_text(trial.peak)} per agent"


def images(
    folder: Annotated[Path, typer.Argument(help="A folder with train/CLASS/ and val/CLASS/ of image files.")],
    size: Annotated[
        int, typer.Option("--size", min=8, max=1024, help="Side to which images are cut, in pixels.")
    ] = 224,
    as_json: JsonOption = False,
) -> None:
    """Describe a folder of image files as the settings by which a sweep names it."""
    from qsweep.orchestrator.machine import describe_images

    found = describe_images(folder, size)
    if as_json:
        write_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name} = {json.dumps(value)}")
    typer.echo(f"# launch it with --data {folder.expanduser().absolute().parent}", err=True)
