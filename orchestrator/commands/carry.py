"""What is carried to machines that reach no registry, and back: `pack`, `import` and `recall`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.orchestrator.commands.look import opened
from qsweep.orchestrator.launch_options import CodeOption, WeightsOption
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
    home_of,
    size_text,
)
from qsweep.orchestrator.terminal import write_json
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    from qsweep.db.registry import Registry
    from qsweep.db.rows import BundleRow


def add_to(app: typer.Typer) -> None:
    app.command("pack", epilog="Example: qsweep pack cifar10-grid --where 'bits == 2' --out far.zip")(pack)
    app.command("import", epilog="Example: qsweep import far-results.zip")(import_)
    app.command("recall", epilog="Example: qsweep recall far.zip")(recall)


def pack(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="A new folder, or a file that ends in .zip.")],
    changes: SetOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name the variant, instead of by its hash.")] = None,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="Put the data sets in, so that the far machine needs none."),
    ] = False,
    weights: WeightsOption = None,
    code: CodeOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
) -> None:
    """Pack a sweep's waiting jobs for a machine that reaches no registry; `qsweep import` takes the results.

    The far machine needs Python 3.11, torch, numpy and pyarrow, and no qsweep: the code goes along. Until the
    bundle comes back, or is recalled, its jobs are held for it, and nothing runs them here.
    """
    from qsweep.orchestrator import packing
    from qsweep.orchestrator.kept_models import with_kept
    from qsweep.orchestrator.selection import read_selection

    selection = read_selection(source, changes=changes or (), where=where, limit=limit, name=name)
    for warning in selection.warnings():
        typer.echo(f"note: {warning}", err=True)
    place = home_of(home, registry, data)
    files = with_kept(place, weights or ())
    packed = packing.pack(place, selection, out, with_data=with_data, code=code, weights=files)
    typer.echo(
        f"{packed.title}: bundle {packed.holder} with {counted(packed.jobs, 'job')}, {packed.place} "
        f"({size_text(packed.size)})"
    )
    if packed.left:
        typer.echo(f"{packed.left} of the chosen jobs are not in it: done, failed, running, or away already")
    has = f" --data DIR, which holds {', '.join(packed.lacks)}" if packed.lacks else ""
    typer.echo(f"there: python {packed.place.name}{has} --results results.zip\nhere:  qsweep import results.zip")


def import_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder, or the file of its results.")],
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a bundle's results home: each job counts once, however often and in whatever state it comes."""

    from qsweep.orchestrator.importing import import_results

    found = import_results(home_of(home, registry), bundle)
    if as_json:
        write_json(asdict(found))
        return
    typer.echo(f"{found.title}: {counted(found.counted, 'job')} counted")
    for count, words in (
        (
            found.without_models,
            "of them without their models, which a sweep asks for: not kept there, or left out of the file",
        ),
        (found.failed, "failed there, and are here as their class of failure says"),
        (found.known, "were counted before"),
        (found.refused, "refused: recalled, superseded, or done elsewhere meanwhile"),
        (found.away, "still checked out: import again when they are done, or `qsweep recall` the bundle"),
    ):
        if count:
            typer.echo(f"{count:>6} {words}")
    for sweep, count in found.measured_by.items():
        typer.echo(f"measures of {sweep} wait for {count} of these models; train them again with: qsweep retry {sweep}")


def recall(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Its number or name, as `qsweep status` shows it.")],
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Take back the jobs that a bundle holds, because it will not return. If it does, its results are refused."""
    with opened(home_of(home, registry)) as found:
        one = _find(found, bundle)
        count = found.bundles.recall(one.id)
    typer.echo(
        f"bundle {one.id} ({one.name}): {counted(count, 'job')} queued again, or cancelled if no sweep wants them"
    )


def _find(registry: Registry, text: str) -> BundleRow:
    from qsweep.db.states import AgentState
    from qsweep.sweeps.errors import InputError

    away = [one for one in registry.catalogue.bundles() if one.state is AgentState.AWAY]
    chosen = [one for one in away if text in (str(one.id), one.name)]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(f"{one.id} ({one.name})" for one in away) or "none"
    problem = f"more than one bundle is called {text!r}" if chosen else f"no bundle {text!r} is away"
    raise InputError(problem, allowed=f"away: {known}")
