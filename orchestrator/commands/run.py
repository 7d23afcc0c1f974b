"""What is run: `launch`, `resume` and `worker`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.db.rules import LEASE
from qsweep.orchestrator.backends.choice import BackendName, Wish, choose, name_of
from qsweep.orchestrator.freezing import choose_code
from qsweep.orchestrator.launch_options import CodeOption, LeaseOption, WeightsOption
from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    CpusOption,
    DataOption,
    GpusOption,
    HomeOption,
    LimitOption,
    MemoryOption,
    RayAddressOption,
    RegistryOption,
    SetOption,
    SourceArgument,
    SweepArgument,
    WhereOption,
    WorkersOption,
    complete_launched,
    home_of,
)
from qsweep.orchestrator.terminal import answering_after_work

if TYPE_CHECKING:
    from qsweep.db.home import Home
    from qsweep.db.rows import Sweep

BackendOption = Annotated[
    BackendName | None,
    typer.Option(
        "--backend", help="Where agents run.", show_default="local; `resume`: where the sweep was started last"
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="What to ask Slurm for: partition, account, qos, time, gres, constraint, mem, cpus_per_task, "
        "array_parallelism, … (see docs/howto/slurm.md).",
    ),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        min=1,
        help="Seconds that one attempt of a job may train before it fails (class timeout).",
        show_default="none",
    ),
]
ResultsOption = Annotated[
    str | None,
    typer.Option(
        "--results",
        metavar="URL",
        help="Keep the results of this home at a URL that pyarrow knows, e.g. s3://bucket/sweeps. Needed only once; "
        "the home remembers it.",
        show_default="results/ in the home",
    ),
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the agents go on.")]


def add_to(app: typer.Typer) -> None:
    app.command(
        "launch",
        epilog="Example: qsweep launch cifar10-grid --data ~/data --where 'bits == 2' --set epochs=30",
    )(launch)
    app.command("resume", epilog="Example: qsweep resume digits-grid")(resume)
    app.command("worker", epilog="Example: qsweep worker --home /scratch/sweeps")(worker)


def launch(
    source: SourceArgument,
    changes: SetOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name the variant, instead of by its hash.")] = None,
    backend: BackendOption = None,
    slurm: SlurmOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    memory: MemoryOption = None,
    results: ResultsOption = None,
    weights: WeightsOption = None,
    detach: DetachOption = False,
    lease: LeaseOption = LEASE,
    time_limit: TimeLimitOption = None,
    code: CodeOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
) -> None:
    """Register what is missing of a sweep, run it, show progress, end with its tables. Run it again to resume."""
    from qsweep.orchestrator.data_folders import check_data
    from qsweep.orchestrator.selection import read_selection
    from qsweep.orchestrator.warming import is_new, warm_up_for

    selection = read_selection(source, changes=changes or (), where=where, limit=limit, name=name)
    place = home_of(home, registry, data)
    wish = _wish(backend, slurm, address=ray_address, cpus=cpus, gpus=gpus, memory=memory)
    place.check()
    if name_of(wish) is BackendName.LOCAL:
        check_data(place, selection.chosen)
        if is_new(place, selection.title):
            warm_up_for(place, calls=selection.spec.calls)  # torch is imported while the rest is imported here
    else:
        choose(wish)  # its options are looked at before anything else

    from qsweep.orchestrator.arrow import spare_pandas
    from qsweep.orchestrator.kept_models import with_kept
    from qsweep.orchestrator.launcher import Execution
    from qsweep.orchestrator.launcher import launch as launch_selection
    from qsweep.orchestrator.layout import say

    spare_pandas()
    for warning in selection.warnings():
        say(f"note: {warning}", err=True)
    sweep = launch_selection(
        place,
        selection,
        lambda: choose(wish),
        Execution(
            workers=workers,
            lease=lease,
            time_limit=time_limit,
            detach=detach,
            results=results,
            weights=with_kept(place, weights or ()),
        ),
        code=code,
    )
    if not detach:
        _finish(place, sweep)


def resume(
    sweep: SweepArgument,
    backend: BackendOption = None,
    slurm: SlurmOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    memory: MemoryOption = None,
    detach: DetachOption = False,
    lease: LeaseOption = LEASE,
    time_limit: TimeLimitOption = None,
    code: CodeOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
) -> None:
    """Resume a launched sweep; no sweep file needed."""
    from qsweep.db.belonging import settle_belonging
    from qsweep.db.registry import Registry
    from qsweep.db.rows import Scope
    from qsweep.db.states import State
    from qsweep.orchestrator.choosing import choose_sweep
    from qsweep.orchestrator.cluster import Wanted, named_address
    from qsweep.orchestrator.commands.tune import go_on
    from qsweep.orchestrator.launcher import Execution, see_through
    from qsweep.orchestrator.launcher import survey as survey_ground
    from qsweep.orchestrator.layout import counted, tell
    from qsweep.orchestrator.screen import Screen
    from qsweep.orchestrator.starts import fleet_size, recorded
    from qsweep.orchestrator.tuning.run import Ground
    from qsweep.reports.demands import spec_of

    place = home_of(home, registry, data)
    opened = Registry.open(place.registry)
    console = Screen()
    try:
        place.check()
        settle_belonging(place, opened)
        found = choose_sweep(opened, sweep)
        if spec_of(found).tuning is not None:
            wanted = Wanted(cpus=cpus, gpus=gpus, memory=memory)
            trials = Ground(address=named_address(ray_address), wanted=wanted, workers=workers, lease=lease)
            go_on(place, found, trials, console, code=code)
            return
        waiting = [row.job for row in opened.catalogue.jobs(found.id) if row.state not in (State.DONE, State.FAILED)]
        tell(console, f"{found.title}: {counted(len(waiting), 'job')} to do")
        if waiting:
            starts = recorded(place, found.id)
            chosen = choose(_wish(backend, slurm, address=ray_address, cpus=cpus, gpus=gpus, memory=memory), starts)
            before = workers or fleet_size(starts, chosen.name)
            execution = Execution(workers=before, lease=lease, time_limit=time_limit, detach=detach)
            version = choose_code(found, code)
            ground = survey_ground(place, chosen, execution, spec_of(found), waiting)
            found = opened.sweeps.add(
                name=found.name,
                label=found.label,
                spec=found.spec,
                size=found.size,
                owner=found.owner,
                code=version,
                keep=found.keep,
                seen_code=found.code,
            )
            see_through(place, opened, found, chosen, console, execution, ground, scope=Scope(sweep=found.id))
    finally:
        opened.close()
    if not detach:
        _finish(place, found)


def worker(
    sweep: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Work for this sweep only.", autocompletion=complete_launched)
    ] = None,
    lease: LeaseOption = LEASE,
    time_limit: TimeLimitOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
) -> None:
    """Run one agent here until nothing is left to claim."""
    from qsweep.db.belonging import check_belonging
    from qsweep.db.registry import Registry
    from qsweep.db.rows import Scope
    from qsweep.orchestrator.supervisor import supervise

    place = home_of(home, registry, data)
    opened = Registry.open(place.registry)
    try:
        check_belonging(place, opened, writing=True)
        found = opened.catalogue.find_sweep(sweep) if sweep else None
    finally:
        opened.close()
    scope, code = (Scope(), None) if found is None else (Scope(sweep=found.id), found.code)
    sys.exit(supervise(place, lease=lease, scope=scope, code=code, time_limit=time_limit).code)


def _wish(name: BackendName | None, slurm: list[str] | None, **ray: str | float | None) -> Wish:
    of_ray = {key: value for key, value in ray.items() if value is not None}
    of_slurm: dict[str, str] = {}
    if slurm:
        from qsweep.orchestrator.backends.slurm.request import parse_options

        of_slurm = parse_options(slurm)
    return Wish(name=name, options={BackendName.SLURM: of_slurm, BackendName.RAY: of_ray})


def _finish(home: Home, sweep: Sweep) -> None:
    """Print the sweep's tables; exit with 1 if jobs failed, lost their results, or wait for one that failed."""
    from qsweep.db.losses import find_gone
    from qsweep.db.registry import Registry
    from qsweep.db.states import Obstacle
    from qsweep.orchestrator.blockage import blocked_words
    from qsweep.orchestrator.layout import counted, say, show
    from qsweep.reports.render import Layout
    from qsweep.reports.sheet import markdown
    from qsweep.reports.source import RegistrySource, warn_of_losses
    from qsweep.reports.summary import summarize

    registry = Registry.open(home.registry)
    try:
        source = RegistrySource(home, registry, sweep)
        summaries = list(summarize(source, Layout(against_paper=True)))
        with answering_after_work(f"qsweep tables {sweep.title}"):
            for number, one in enumerate(summaries):
                typer.echo("\n" * bool(number), nl=False)
                show(one.sheet, piped=markdown)
                if one.rest:
                    say(f"\n{one.rest}")
        counts = registry.catalogue.counts(sweep.id)
        blocked = registry.sweeps.blocked(sweep.id) if counts.queued else []
        source.lost += [one for one in find_gone(home, registry, sweep.id) if one not in source.lost]
    finally:
        registry.close()
    warn_of_losses([source])
    failed = counts.failed
    if counts.away:
        say(f"{counted(counts.away, 'job')} checked out to bundles; see: qsweep status", err=True)
    for line in blocked_words(sweep.title, blocked):
        say(line, err=True)
    if failed:
        say(f"{counted(failed, 'job')} failed; see: qsweep jobs {sweep.title} --state failed", err=True)
    if failed or source.lost or any(one.obstacle is not Obstacle.AWAY for one in blocked):
        raise typer.Exit(1)
