"""What is looked at: `status`, `jobs`, `show` and `logs`. Looking changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.states import AgentState, FailureClass, State
from orchestrator.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    LimitOption,
    RegistryOption,
    SweepArgument,
    WhereOption,
    complete_launched,
    home_of,
)

if TYPE_CHECKING:
    from db.home import Home
    from db.registry import Registry
    from db.rows import JobRow
    from reports.sheet import Sheet
    from sweeps.job import Job

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's identity, or its first digits.")]
StateOption = Annotated[State | None, typer.Option("--state", help="Only jobs in this state.")]


def add_to(app: typer.Typer) -> None:
    app.command("status", epilog="Example: qsweep status digits-grid --watch")(status)
    app.command("jobs", epilog="Example: qsweep jobs digits-grid --state failed --where 'bits == 2'")(jobs)
    app.command("show", epilog="Example: qsweep show 3fa4c1")(show)
    app.command("logs", epilog="Example: qsweep logs 3fa4c1")(logs)


@contextmanager
def opened(home: Home) -> Iterator[Registry]:
    """The registry of a home. Raises InputError if there is none."""
    from db.registry import Registry

    registry = Registry.open(home.registry)
    try:
        yield registry
    finally:
        registry.close()


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One sweep; all without.", autocompletion=complete_launched)
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
    watching: Annotated[
        bool, typer.Option("--watch", help="Keep showing one sweep (without NAME the one launched last).")
    ] = False,
) -> None:
    """Show how far the sweeps are, and which agents are at work."""
    from orchestrator.terminal import counted, say, show

    place = home_of(home, registry)
    if watching:
        _watch(place, name, as_json=as_json)
        return
    with opened(place) as found:
        sweeps = [found.find_sweep(name)] if name else found.sweeps()
        rows: list[dict[str, Any]] = []
        for sweep in sweeps:
            counts = found.counts(sweep.id)
            rows.append(
                {
                    "sweep": sweep.title,
                    "state": str(sweep.state) + (f" ({sweep.reason})" if sweep.reason else ""),
                    "owner": sweep.owner,
                    "size": sweep.size,
                    **{state.value: getattr(counts, state.value) for state in State},
                }
            )
        agents: list[dict[str, Any]] = [
            {"agent": one.id, "host": one.host, "pid": one.pid, "device": one.device, "note": one.note}
            for one in found.agents()
        ]
        away = [one for one in found.bundles() if one.state is AgentState.AWAY]
    remarks = _remarks(
        place, [sweep.id for sweep, row in zip(sweeps, rows, strict=True) if row["queued"] + row["running"]]
    )
    if as_json:
        bundles = [asdict(one) for one in away]
        typer.echo(json.dumps({"sweeps": rows, "agents": agents, "bundles": bundles, "remarks": remarks}))
        return
    if not rows:
        typer.echo("no sweep was launched here yet; try: qsweep launch digits-grid")
        return
    show(_status_sheet(rows))
    for agent in agents:
        say(f"agent {agent['agent']} on {agent['host']} ({agent['device']}): {_at_work(agent['note'])}")
    for one in away:
        packed = datetime.fromtimestamp(one.packed_at).isoformat(" ", "minutes")
        say(f"bundle {one.id}: {counted(one.jobs, 'job')} checked out to {one.name} since {packed}")
    for remark in remarks:
        say(remark)


def _status_sheet(rows: Sequence[dict[str, Any]]) -> Sheet:
    """One line a sweep; on a narrow terminal the count of cancelled jobs is left out first."""
    from reports.sheet import Heading, Sheet

    counts = [state.value for state in State]
    names = ("sweep", *counts, "of", "state")
    return Sheet(
        headings=tuple(
            Heading(
                name=name,
                numeric=name in (*counts, "of"),
                copied=name == "sweep",
                spare=1 if name == State.CANCELLED.value else 0,
            )
            for name in names
        ),
        rows=tuple((row["sweep"], *(f"{row[one]}" for one in counts), f"{row['size']}", row["state"]) for row in rows),
    )


def _remarks(home: Home, open_ones: list[int]) -> list[str]:
    """What the clusters say about the agents of the sweeps that are not done."""
    from orchestrator.backends.choice import BackendName, backend_class
    from orchestrator.starts import by_backend, recorded

    lines: list[str] = []
    for sweep in open_ones:
        for name, starts in by_backend(recorded(home, sweep)).items():
            lines += backend_class(BackendName(name)).describe(home, starts)
    return lines


def _watch(home: Home, name: str | None, *, as_json: bool) -> None:
    from rich.console import Console

    from db.results import ResultStore
    from orchestrator.board import contents, watch
    from orchestrator.lookout import Lookout
    from sweeps.errors import InputError

    with opened(home) as found:
        sweeps = found.sweeps()
        if not sweeps:
            raise InputError("no sweep was launched here yet", place="--watch", allowed="qsweep launch digits-grid")
        lookout = Lookout(found, ResultStore(home.store), found.find_sweep(name or sweeps[0].title))
        try:
            if not as_json:
                watch(lookout, Console())
                return
            for content in contents(lookout):
                typer.echo(json.dumps(content))
        except KeyboardInterrupt:
            return


def _at_work(note: str) -> str:
    if not note:
        return "starting"
    work = json.loads(note)
    return f"{work['jobs']} jobs of {work['cohort']}, step {work['step']} of {work['steps']}"


def jobs(
    name: SweepArgument,
    state: StateOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs of a sweep with their states and settings."""
    from sweeps.spec import matching

    with opened(home_of(home, registry)) as found:
        sweep = found.find_sweep(name)
        rows = {row.identity: row for row in found.jobs(sweep.id)}
    members = [row.job for row in rows.values()]
    admitted = matching(members, where) if members else []
    chosen = [job for job in admitted if state in (None, rows[job.identity].state)]
    chosen = chosen if limit is None else chosen[:limit]
    if as_json:
        listed = [
            {
                "job": job.identity,
                "state": rows[job.identity].state.value,
                "attempt": rows[job.identity].attempt,
                **job.settings(),
            }
            for job in chosen
        ]
        typer.echo(json.dumps(listed))
        return
    typer.echo(_job_table(chosen, rows, _varying([job.settings() for job in members])), nl=False)
    typer.echo(f"{len(chosen)} of {len(rows)} jobs of {sweep.title}", err=True)


def _job_table(jobs: list[Job], rows: dict[str, JobRow], varying: list[str]) -> str:
    """One line a job: its state, the class of its failure if any has one, and the settings in which jobs differ."""
    import pyarrow as pa

    from orchestrator.terminal import width_of
    from reports.listing import listed

    stored = [rows[job.identity] for job in jobs]
    columns: dict[str, list[Any]] = {
        "job": [row.identity[:12] for row in stored],
        "state": [_state_text(row) for row in stored],
    }
    if any(row.failure_class for row in stored):
        columns["failure"] = [row.failure_class and row.failure_class.value for row in stored]
    settings = [job.settings() for job in jobs]
    columns |= {name: [_short(one.get(name)) for one in settings] for name in varying}
    return listed(pa.table(columns), width=width_of(sys.stdout), hint="all with --json")


def _short(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def _state_text(row: JobRow) -> str:
    """A job's state, and how far it got if a tuning scheduler ended it."""
    if row.state is State.CANCELLED and row.failure_class is FailureClass.STOPPED:
        return f"cancelled (stopped at epoch {row.epoch})"
    return row.state.value


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """The settings in which the jobs differ."""
    names = list(dict.fromkeys(name for one in settings for name in one))
    return [name for name in names if len({str(one.get(name)) for one in settings if name in one}) > 1]


def show(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the full history of a job: settings, attempts, events."""
    with opened(home_of(home, registry)) as found:
        row = found.job(job)
        attempts, events = found.attempts(row.id), found.events(row.id)
    if as_json:
        content = {
            "job": asdict(row),
            "attempts": [asdict(one) for one in attempts],
            "events": [asdict(one) for one in events],
        }
        typer.echo(json.dumps(content, default=str))
        return
    typer.echo(f"job       {row.identity}\nstate     {_state_text(row)}, attempt {row.attempt}")
    for key, value in row.job.settings().items():
        typer.echo(f"  {key:<20}{value}")
    for one in attempts:
        ended = one.failure_class or one.outcome or "running"
        typer.echo(f"attempt {one.attempt} on {one.host} (agent {one.agent_id}): {ended}, log {one.log}")
        if one.error:
            typer.echo("  " + one.error.strip().replace("\n", "\n  "))
    for event in events:
        at = datetime.fromtimestamp(event.at).isoformat(" ", "seconds")
        typer.echo(f"{at}  {event.source.value} → {event.target.value}  {event.detail}".rstrip())


def logs(
    job: JobArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 100,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Print the log of the agent that ran a job last."""
    from sweeps.errors import InputError

    place = home_of(home, registry)
    with opened(place) as found:
        attempts = found.attempts(found.job(job).id)
    if not attempts:
        raise InputError(f"job {job} was not started yet")
    path = place.root / attempts[-1].log
    if not path.is_file():
        raise InputError(f"the log of attempt {attempts[-1].attempt} is not here", place=str(path))
    typer.echo("\n".join(path.read_text().splitlines()[-lines:]))
