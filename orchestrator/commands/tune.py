"""How hyperparameters are tuned: `tune`, by Ray Tune over a sweep's own axes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.db.rules import LEASE
from qsweep.orchestrator.launch_options import CodeOption, LeaseOption
from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    CpusOption,
    DataOption,
    GpusOption,
    HomeOption,
    JsonOption,
    MemoryOption,
    RayAddressOption,
    RegistryOption,
    SetOption,
    SourceArgument,
    WhereOption,
    home_of,
)
from qsweep.orchestrator.terminal import answering_after_work, write_json
from qsweep.sweeps.tuning import Mode, Scheduler, Search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qsweep.db.home import Home
    from qsweep.db.rows import Sweep
    from qsweep.orchestrator.freezing import Code
    from qsweep.orchestrator.tuning.answer import Tried
    from qsweep.orchestrator.tuning.run import Ground


def add_to(app: typer.Typer) -> None:
    app.command(
        "tune",
        epilog="Example: qsweep tune digits-grid --metric val_loss --scheduler asha --search random --samples 20",
    )(tune)


def tune(
    source: SourceArgument,
    metric: Annotated[
        str, typer.Option("--metric", help="Metric to optimize; never measured on test data.")
    ] = "val_loss",
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Minimize or maximize.", show_default="by the metric")
    ] = None,
    scheduler: Annotated[Scheduler, typer.Option("--scheduler", help="Early-stopping scheduler.")] = Scheduler.ASHA,
    search: Annotated[Search, typer.Option("--search", help="Which points are tried.")] = Search.GRID,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, metavar="N", help="Maximum number of trials.", show_default="grid: all, else 16"
        ),
    ] = None,
    grace: Annotated[int, typer.Option("--grace", min=1, help="Epochs before ASHA may stop a trial.")] = 1,
    reduction: Annotated[
        int, typer.Option("--reduction", min=2, help="ASHA reduction factor: keep 1 in N trials at each rung.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the trials.")] = 0,
    changes: SetOption = None,
    where: WhereOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name the tuning run.")] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Trials at a time.", show_default="as many as fit"),
    ] = None,
    address: RayAddressOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    memory: MemoryOption = None,
    lease: LeaseOption = LEASE,
    code: CodeOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune over a sweep's axes with Ray Tune, bit width among them; end with the best trials.

    Run it again to resume.
    """
    from qsweep.orchestrator.cluster import Wanted, named_address
    from qsweep.orchestrator.layout import tell
    from qsweep.orchestrator.screen import Screen
    from qsweep.orchestrator.selection import read_selection
    from qsweep.orchestrator.tuning.run import Ground, make_selection
    from qsweep.orchestrator.tuning.run import tune as see_through
    from qsweep.sweeps.tuning import VAL_FRACTION, Tuning, check_metric, check_own_metric

    console = Screen()
    selection = read_selection(source, changes=changes or ())
    calls = selection.spec.calls
    natural = check_own_metric(metric, mode) if calls else check_metric(metric, mode)
    given = {*dict(selection.spec.fixed), *(axis.name for axis in selection.spec.axes)}
    if not calls and metric.startswith("val_") and "val_fraction" not in given:
        tell(console, f"note: val_fraction = {VAL_FRACTION}; change it with --set")
        selection = read_selection(source, changes=[*(changes or ()), f"val_fraction={VAL_FRACTION}"])
    tuning = Tuning(
        metric=metric, mode=natural, scheduler=scheduler, search=search, samples=samples, grace=grace,
        reduction=reduction, seed=seed, where=where,
    )  # fmt: skip
    place = home_of(home, registry, data)
    ground = Ground(
        address=named_address(address), wanted=Wanted(cpus=cpus, gpus=gpus, memory=memory), workers=workers, lease=lease
    )  # fmt: skip
    sweep = see_through(place, make_selection(selection, tuning, name), ground, console, code=code)
    answer(place, sweep, as_json=as_json)


def go_on(home: Home, sweep: Sweep, ground: Ground, console: Console, *, code: Code | None) -> None:
    """See a launched tuning run through to its end, from the registry alone; print the best trials."""
    from qsweep.orchestrator.tuning.run import launched_selection
    from qsweep.orchestrator.tuning.run import tune as see_through

    answer(home, see_through(home, launched_selection(sweep), ground, console, code=code))


def answer(home: Home, sweep: Sweep, *, as_json: bool = False) -> None:
    """Print the best trials; exit with 1 if some jobs failed."""
    from qsweep.db.registry import Registry
    from qsweep.orchestrator.layout import counted, say
    from qsweep.orchestrator.tuning.answer import read_trials

    with Registry.open(home.registry) as opened:
        trials = read_trials(home, opened, sweep)
        failed = opened.catalogue.counts(sweep.id).failed
    with answering_after_work(f"qsweep resume {sweep.title}"):
        _print_trials(sweep, trials, as_json=as_json)
    if failed:
        say(f"{counted(failed, 'job')} failed; see: qsweep jobs {sweep.title} --state failed", err=True)
        raise typer.Exit(1)


def _print_trials(sweep: Sweep, trials: Sequence[Tried], *, as_json: bool) -> None:
    from qsweep.orchestrator.layout import show_tables
    from qsweep.orchestrator.tuning.answer import trial_sheets

    if as_json:
        write_json({"sweep": sweep.title, "trials": [asdict(one) for one in trials]})
    else:
        show_tables(trial_sheets(sweep, trials))
