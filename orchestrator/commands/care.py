"""What is cared for: `doctor` and `db`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.look import opened
from orchestrator.options import (
    DEFAULT_HOME,
    DataOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    complete_launched,
    home_of,
    size_text,
)

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
    as_json: JsonOption = False,
) -> None:
    """Check this machine, the home, the registry and the data sets; exit 1 if a sweep could not run."""
    from orchestrator.checkup import examine, finding_sheet
    from orchestrator.terminal import show

    findings = examine(home_of(home, registry, data))
    if as_json:
        typer.echo(json.dumps([{"part": one.part, "ok": one.ok, "text": one.text} for one in findings]))
    else:
        show(finding_sheet(findings))
    if any(one.needed and not one.ok for one in findings):
        raise typer.Exit(1)


def du(home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Show what the home takes on the disk, and how much of it nothing points to."""
    from db.garbage import find_garbage, measure_usage
    from orchestrator.terminal import show
    from reports.sheet import Sheet, headings

    place = home_of(home, registry)
    with opened(place) as found:
        usage = measure_usage(place, find_garbage(place, found, now=time.time()))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in usage]))
        return
    show(
        Sheet(
            headings=headings("folder", "files", "size", "garbage", numeric=["files", "size", "garbage"]),
            rows=tuple((one.name, f"{one.files}", size_text(one.size), size_text(one.garbage)) for one in usage),
        )
    )


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Delete files that no job points to and that nobody is writing."""
    from db.garbage import find_garbage
    from orchestrator.terminal import counted, say

    place = home_of(home, registry)
    with opened(place) as found:
        garbage = find_garbage(place, found, now=time.time())
    freed = sum(path.stat().st_size for path in garbage)
    for path in garbage:
        if dry_run:
            typer.echo(str(path.relative_to(place.root)))
        else:
            path.unlink(missing_ok=True)
    say(f"{counted(len(garbage), 'file')}, {size_text(freed)}" + (" would be deleted" if dry_run else " deleted"))


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
    from db.compaction import compact as merge
    from orchestrator.terminal import counted, say

    place = home_of(home, registry)
    with opened(place) as found:
        sweeps = [found.find_sweep(name)] if name else found.sweeps()
        merged = merge(place, found, [sweep.id for sweep in sweeps])
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in merged]))
        return
    for one in merged:
        if one.skipped:
            say(f"{counted(one.skipped, 'file')} of {one.kind} results were written by a newer qsweep: left alone")
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
    from db.registry import Registry

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
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Start a Postgres for the registry, in the background, and print its URL.

    For whoever has no Postgres and a home on a network file system. The password stands in a file of the home
    that only you can read; the URL names that file.
    """
    from orchestrator.serving import Server, start, stop

    place = home_of(home)
    server = Server(
        folder=(folder or place.root / "postgres").absolute(),
        passwords=place.root / "postgres.pgpass",
        host=host,
        port=port,
    )
    if stopping:
        stop(server)
        typer.echo("stopped")
        return
    start(server)
    typer.echo(server.url)


@database.command("check", epilog="Example: qsweep db check")
def check(home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Check the registry's laws and that every counted result is there; exit 1 on a violation."""
    from db.audit import audit
    from orchestrator.terminal import counted, say

    place = home_of(home, registry)
    problems = audit(place)
    if as_json:
        typer.echo(json.dumps(problems))
    else:
        for problem in problems:
            say(f"- {problem}")
        say("the registry is sound" if not problems else counted(len(problems), "problem"))
    if problems:
        raise typer.Exit(1)
