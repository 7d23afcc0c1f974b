"""What is cared for: `doctor` and `db`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qsweep.orchestrator.choosing import confirm
from qsweep.orchestrator.commands.look import opened
from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    DataOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    YesOption,
    complete_launched,
    home_of,
    size_text,
)
from qsweep.orchestrator.terminal import write_json

database = typer.Typer(no_args_is_help=True, help="Manage the registry database.")


def add_to(app: typer.Typer) -> None:
    app.command("doctor", epilog="Example: qsweep doctor --data ~/data")(doctor)
    app.command("du", epilog="Example: qsweep du")(du)
    app.command("gc", epilog="Example: qsweep gc --dry-run")(gc)
    app.command("compact", epilog="Example: qsweep compact digits-grid")(compact)
    app.add_typer(database, name="db")


def doctor(
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    data: DataOption = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check each GPU instead, for a minute: does it compute what it should?")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, the home, the registry and the data sets; exit 1 if a sweep could not run."""
    from qsweep.orchestrator.checkup import examine, examine_gpus, finding_sheet
    from qsweep.orchestrator.layout import show

    findings = examine_gpus() if gpu else examine(home_of(home, registry, data))
    if as_json:
        write_json([{"part": one.part, "ok": one.ok, "text": one.text} for one in findings])
    else:
        show(finding_sheet(findings))
    if any(one.needed and not one.ok for one in findings):
        raise typer.Exit(1)


def du(home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Show what the home and its results take, wherever they lie, and how much of it nothing points to."""
    from qsweep.db.belonging import check_belonging
    from qsweep.db.garbage import find_garbage, measure_usage
    from qsweep.orchestrator.layout import say, show
    from qsweep.reports.sheet import Sheet, headings

    place = home_of(home, registry)
    with opened(place) as found:
        check_belonging(place, found)
        usage = measure_usage(place, find_garbage(place, found, now=time.time()))
    if as_json:
        write_json([asdict(one) for one in usage])
        return
    show(
        Sheet(
            headings=headings("folder", "files", "size", "garbage", numeric=["files", "size", "garbage"]),
            rows=tuple((one.name, f"{one.files}", size_text(one.size), size_text(one.garbage)) for one in usage),
        )
    )
    if isinstance(place.store, str):
        say(f"results lie in {place.store}", err=True)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    earlier: Annotated[
        bool,
        typer.Option(
            "--earlier", help="Of a registry that was moved: also what is from before. Never if it was copied."
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete files that no job points to and that nobody is writing."""
    from qsweep.db.belonging import check_belonging
    from qsweep.db.garbage import collect_garbage, find_garbage
    from qsweep.orchestrator.layout import counted, say

    place = home_of(home, registry)
    with opened(place) as found:
        check_belonging(place, found, writing=not dry_run)
        look, now = find_garbage if dry_run else collect_garbage, time.time()
        garbage = look(place, found, now=now, earlier=earlier)
        known = found.catalogue.store()
        moved = known is not None and len(known.lineage) > 1 and not earlier
        left = len(find_garbage(place, found, now=now, earlier=True)) - (len(garbage) if dry_run else 0) if moved else 0
    freed = sum(one.size for one in garbage)
    if as_json:
        write_json({"files": [str(one.path) for one in garbage], "bytes": freed, "deleted": not dry_run})
        return
    for one in garbage if dry_run else ():
        typer.echo(one.path)
    say(f"{counted(len(garbage), 'file')}, {size_text(freed)}" + (" would be deleted" if dry_run else " deleted"))
    if left:
        say(
            f"{counted(left, 'file')} from before the registry was moved here left alone: a copy of it may count them; "
            "if there is none, qsweep gc --earlier deletes them too"
        )


def compact(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One launched sweep; all without.", autocompletion=complete_launched),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge thousands of small results files into a few, while sweeps run or after. No answer changes."""
    from qsweep.db.belonging import check_belonging
    from qsweep.db.compaction import compact as merge
    from qsweep.orchestrator.layout import counted, say

    place = home_of(home, registry)
    with opened(place) as found:
        check_belonging(place, found, writing=True)
        sweeps = [found.catalogue.find_sweep(name)] if name else found.catalogue.sweeps()
        merged = merge(place, found, [sweep.id for sweep in sweeps])
    if as_json:
        write_json([asdict(one) for one in merged])
        return
    for one in merged:
        if one.skipped:
            say(f"{counted(one.skipped, 'file')} of {one.kind} results were written by a newer qsweep: left alone")
        if one.damaged:
            say(f"{counted(one.damaged, 'file')} of {one.kind} results can't be read: see qsweep db check", err=True)
        if one.before:
            results = counted(one.moved, f"{one.kind} result")
            say(f"merged {counted(one.before, 'result file')} into {one.after} ({results})")
    if any(one.before for one in merged):
        say("qsweep gc deletes the old files once they are an hour old")
    else:
        typer.echo("nothing to merge")


@database.command("upgrade", epilog="Example: qsweep db upgrade")
def upgrade(home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None) -> None:
    """Bring the registry to this program's schema."""
    from qsweep.db.registry import Registry

    place = home_of(home, registry)
    before, after = Registry.upgrade(place.registry)
    typer.echo(f"schema {after}: nothing to do" if before == after else f"schema {before} upgraded to {after}")


@database.command("serve", epilog="Example: qsweep db serve --dir /local/disk/qsweep --host 0.0.0.0 --port 5544")
def serve(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="Where its data lies: a local disk.", show_default="postgres/ in the home"
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address it listens at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1024, max=65535)] = 5544,
    stopping: Annotated[bool, typer.Option("--stop", help="Stop it; the data stays.")] = False,
    new_password: Annotated[
        bool, typer.Option("--new-password", help="Start it with a new password; the old one is worth nothing then.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Start a Postgres for the registry, in the background, and print its URL.

    For users who have no Postgres and a home on a network file system. The password stands in a file of the home
    that only you can read; the URL names that file.
    """
    from qsweep.orchestrator.layout import say
    from qsweep.orchestrator.serving import Server, notes, password_file, start, stop

    place = home_of(home)
    data = (folder or place.root / "postgres").absolute()
    server = Server(
        folder=data,
        passwords=password_file(place.root, data, new=new_password),
        host=host,
        port=port,
    )
    if stopping:
        stop(server)
        typer.echo("stopped")
        return
    start(server, new_password=new_password)
    for note in notes(server):
        say(f"note: {note}", err=True)
    typer.echo(server.url)


@database.command("check", epilog="Example: qsweep db check --repair")
def check(
    repairing: Annotated[
        bool,
        typer.Option("--repair", help="Take jobs whose results are lost back into the queue; asks first."),
    ] = False,
    models: Annotated[
        bool,
        typer.Option(
            "--models", help="With --repair and results at a URL: also jobs whose kept model is not in this home."
        ),
    ] = False,
    yes: YesOption = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every kept model and checkpoint, and compare it with its hash.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the registry's laws and that every counted result is there; exit 1 on a violation."""
    from qsweep.orchestrator.arrow import spare_numpy

    spare_numpy()
    from qsweep.db.audit import NAMED, SHOWN, Findings, examine, repair
    from qsweep.db.losses import MODEL
    from qsweep.orchestrator.layout import counted, say
    from qsweep.orchestrator.lost_jobs import lost_words
    from qsweep.orchestrator.standing import stranded_words

    place = home_of(home, registry)
    with opened(place) as found:
        findings = examine(place, found, deep=deep)
        for words in lost_words(found):
            typer.echo(f"note: {words}", err=as_json)
        lines = findings.lines(named=None if as_json else NAMED)
        if as_json:
            write_json(lines)
        else:
            for line in lines[:SHOWN]:
                say(line)
            say("the registry is sound" if findings.is_sound else counted(len(lines), "problem"))
        # Several homes may have the same results: a model that is not here may be in another one.
        of_models = models or not isinstance(place.store, str)
        lost = [one for one in findings.lost if of_models or one.kind != MODEL]
        jobs = len({one.job for one in lost})
        if len(lost) < len(findings.lost):
            typer.echo("models that are not here may be in another home that has the same results", err=True)
        if jobs and not repairing:
            typer.echo(
                f"to compute {counted(jobs, 'job')} again: qsweep db check --repair, then launch again", err=True
            )
        if jobs and repairing:
            asked = f"Take {counted(jobs, 'job')} back into the queue, with the measures of their models?"
            confirm(asked, yes=yes, unasked=False)
            changed = repair(place, found, lost)
            typer.echo(f"{counted(changed, 'job is', 'jobs are')} queued again, for the next launch", err=True)
            for words in stranded_words(found):
                say(words, err=True)
            findings = Findings(broken=findings.broken, lost=[one for one in findings.lost if one not in lost])
    if not findings.is_sound:
        raise typer.Exit(1)
