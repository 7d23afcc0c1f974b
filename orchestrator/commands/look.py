"""What is looked at: `status`, `jobs`, `show` and `logs`. Looking changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsweep.db.states import AgentState, State
from qsweep.orchestrator.options import (
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
from qsweep.orchestrator.terminal import write_json, write_json_rows

if TYPE_CHECKING:
    from qsweep.db.home import Home
    from qsweep.db.registry import Registry
    from qsweep.db.rows import JobRow, Sweep
    from qsweep.orchestrator.joblist import Row
    from qsweep.reports.sheet import Sheet

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's identity, or its first digits.")]
MOST_LOOKED_AT = 50_000
"""Done jobs of which `status` looks whether their results are there: with more it would be slow."""
MOST_TELLING = ("test_accuracy", "generalization_gap")
LEAST_TELLING = ("test_loss", "train_loss", "train_accuracy", "chosen_epoch", "seconds")
"""Results that a narrow terminal leaves out last, and first."""
StateOption = Annotated[State | None, typer.Option("--state", help="Only jobs in this state.")]


def add_to(app: typer.Typer) -> None:
    app.command("status", epilog="Example: qsweep status digits-grid --watch")(status)
    app.command("jobs", epilog="Example: qsweep jobs digits-grid --state failed --where 'bits == 2'")(jobs)
    app.command("show", epilog="Example: qsweep show 3fa4c1")(show)
    app.command("logs", epilog="Example: qsweep logs 3fa4c1")(logs)


@contextmanager
def opened(home: Home) -> Iterator[Registry]:
    """The registry of a home. Raises InputError if there is none."""
    from qsweep.db.registry import Registry

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
    from qsweep.orchestrator.layout import counted, say, show
    from qsweep.orchestrator.lost_jobs import lost_agents
    from qsweep.orchestrator.standing import look_at
    from qsweep.orchestrator.stopped import row as stopped_row
    from qsweep.orchestrator.stopped import stopped_since
    from qsweep.orchestrator.stopped import words as stopped_words

    place = home_of(home, registry)
    if watching:
        _watch(place, name, as_json=as_json)
        return
    with opened(place) as found:
        sweeps = [found.catalogue.find_sweep(name)] if name else found.catalogue.sweeps()
        living = found.catalogue.agents()
        lost = lost_agents(living)
        standings = [look_at(found, sweep, lost) for sweep in sweeps]
        held = found.agents.held() if lost or any(not one.note for one in living) else {}
        stopped = stopped_since(found, standings)
        away = [one for one in found.catalogue.bundles() if one.state is AgentState.AWAY]
        losses = _losses(place, found, sweeps, sum(one.counts.done for one in standings))
    rows = [one.row() for one in standings]
    agents: list[dict[str, Any]] = [
        {"agent": one.id, "host": one.host, "pid": one.pid, "device": one.device, "note": one.note,
         "lost": one.id in lost}
        for one in living
        if one.id not in lost or held.get(one.id)  # one that is gone and held nothing is nobody's concern
    ]  # fmt: skip
    remarks = [*losses, *(words for one in standings for words in one.words())]
    clusters = _remarks(place, [one.sweep.id for one in standings if one.is_open])
    remarks += clusters
    if not clusters and len(lost) == len(living):
        remarks += [one.idle_words() for one in standings if one.waits]
    if as_json:
        bundles = [asdict(one) for one in away]
        write_json(
            {"sweeps": rows, "agents": agents, "stopped": [stopped_row(one) for one in stopped],
             "bundles": bundles, "remarks": remarks}
        )  # fmt: skip
        return
    if not rows:
        typer.echo("no sweep was launched here yet; try: qsweep launch digits-grid")
        return
    show(_status_sheet(rows))
    for agent in agents:
        work = "gone" if agent["lost"] else _at_work(agent["note"], held.get(agent["agent"], 0))
        say(f"agent {agent['agent']} on {agent['host']} ({agent['device']}): {work}")
    for agent_row in stopped:
        say(stopped_words(agent_row))
    for one in away:
        packed = datetime.fromtimestamp(one.packed_at).isoformat(" ", "minutes")
        say(f"bundle {one.id}: {counted(one.jobs, 'job')} checked out to {one.name} since {packed}")
    for remark in remarks:
        say(remark)


def _status_sheet(rows: Sequence[dict[str, Any]]) -> Sheet:
    """One line a sweep; on a narrow terminal the count of cancelled jobs is left out first."""
    from qsweep.reports.sheet import Heading, Sheet

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


def _losses(home: Home, registry: Registry, sweeps: Sequence[Sweep], done: int) -> list[str]:
    """What the sweeps lost of their results, as far as a quick look at the names of files tells."""
    from qsweep.db.absence import is_anything_absent

    if not 0 < done <= MOST_LOOKED_AT or not is_anything_absent(home, registry):
        return []
    from qsweep.db.belonging import check_belonging
    from qsweep.db.losses import find_gone, told
    from qsweep.sweeps.errors import InputError

    try:
        check_belonging(home, registry)
    except InputError as error:
        return [str(error)]
    return [text for sweep in sweeps if (text := told(find_gone(home, registry, sweep.id), sweep.title))]


def _remarks(home: Home, open_ones: list[int]) -> list[str]:
    """What the clusters say about the agents of the sweeps that are not done."""
    from qsweep.orchestrator.backends.choice import BackendName, backend_class
    from qsweep.orchestrator.starts import by_backend, recorded

    lines: list[str] = []
    for sweep in open_ones:
        for name, starts in by_backend(recorded(home, sweep)).items():
            lines += backend_class(BackendName(name)).describe(home, starts)
    return lines


def _watch(home: Home, name: str | None, *, as_json: bool) -> None:
    from qsweep.db.results import ResultStore
    from qsweep.orchestrator.board import contents, watch
    from qsweep.orchestrator.lookout import Lookout
    from qsweep.orchestrator.screen import Screen
    from qsweep.sweeps.errors import InputError

    with opened(home) as found:
        sweeps = found.catalogue.sweeps()
        if not sweeps:
            raise InputError("no sweep was launched here yet", place="--watch", allowed="qsweep launch digits-grid")
        lookout = Lookout(found, ResultStore(home.store), found.catalogue.find_sweep(name or sweeps[0].title))
        try:
            if not as_json:
                if sys.stderr.isatty():
                    typer.echo("in a browser: qsweep ui --open", err=True)
                watch(lookout, Screen(stderr=False))
                return
            for content in contents(lookout):
                write_json(content)
        except KeyboardInterrupt:
            return


def _at_work(note: str, held: int) -> str:
    from qsweep.orchestrator.layout import counted
    from qsweep.orchestrator.standing import without_note

    if not note:
        return without_note(held)
    work = json.loads(note)
    return f"{counted(work['jobs'], 'job')} of {work['cohort']}, step {work['step']} of {work['steps']}"


def jobs(
    name: SweepArgument,
    state: StateOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="COLUMN", help="Order by a column; -COLUMN the other way round.")
    ] = None,
    best: Annotated[
        int | None,
        typer.Option("--best", min=1, help="Show only the best by test accuracy or --sort (-COLUMN: most)."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,…", help="Show these columns: of results and settings.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs of a sweep: their states, what they found, and their settings."""
    from qsweep.orchestrator.arrow import spare_numpy

    spare_numpy()
    from qsweep.orchestrator.joblist import check_columns, chosen_rows, job_rows, kept_pages, readable_results
    from qsweep.orchestrator.layout import counted
    from qsweep.orchestrator.lost_jobs import lost_agents
    from qsweep.reports.demands import spec_of
    from qsweep.reports.source import RegistrySource, warn_of_losses

    place = home_of(home, registry)
    wanted = columns.split(",") if columns else None
    first = None if sort or best else limit
    with opened(place) as found:
        sweep = found.catalogue.find_sweep(name)
        lost = lost_agents(found.catalogue.agents())
        kept: Iterable[Sequence[JobRow]] = kept_pages(found, sweep.id, state, where, first)
        ids = None
        if first is not None:  # the results of these alone are read
            kept = list(kept)
            ids = [row.id for page in kept for row in page]
        source = RegistrySource(place, found, sweep, ids=ids)
        results, problem = readable_results(source)
        warn_of_losses([source])

        def rows_of(page: Sequence[JobRow]) -> list[Row]:
            return job_rows(page, lost, results.of([row.identity for row in page]) if results else {})

        if problem:
            typer.echo(f"note: without results: {problem}", err=True)
        if as_json and not (sort or best or wanted):
            write_json_rows(map(rows_of, kept))
            return
        stored = {row.identity: row for page in kept for row in page}
        rows = rows_of(list(stored.values()))
        if first is None or {name for row in rows for name in row}.issuperset(wanted or ()):
            check_columns(rows, wanted or (), "--columns")
        else:  # a job that is not among them may have it
            every = [
                row for page in kept_pages(found, sweep.id, state, where, None) for row in job_rows(page, lost, {})
            ]
            check_columns(every, wanted or (), "--columns")
        rows = chosen_rows(rows, sort=sort, best=best)[:limit]
        if as_json:
            write_json(rows)
            return
        total = found.catalogue.counts(sweep.id).total
        differing = found.catalogue.varying(sweep.id, spec_of(sweep).free)
    typer.echo(_job_table([stored[row["job"]] for row in rows], rows, differing, wanted, lost), nl=False)
    typer.echo(f"{len(rows)} of {counted(total, 'job')} of {sweep.title}", err=True)


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: mixed ones, as settings of the user's own may be, as texts."""
    kinds = {type(one) for one in values if one is not None}
    return values if len(kinds) < 2 or kinds == {int, float} else [None if one is None else str(one) for one in values]


def _job_table(
    stored: Sequence[JobRow],
    rows: Sequence[dict[str, Any]],
    differing: Sequence[str],
    wanted: Sequence[str] | None,
    lost: Collection[int],
) -> str:
    """One line a job: its state, the class of its failure if any has one, results that any has, differing settings."""
    import pyarrow as pa

    from qsweep.orchestrator.joblist import result_names, state_text
    from qsweep.orchestrator.layout import width_of
    from qsweep.reports.listing import listed

    shown: dict[str, list[Any]] = {
        "job": [row.identity[:12] for row in stored],
        "state": [state_text(row, lost) for row in stored],
    }
    if wanted is None:
        wanted = [
            name for name in ("failure", *result_names(rows, stored)) if any(row.get(name) is not None for row in rows)
        ]
        wanted = [*wanted, *differing]
    shown |= {name: _column([_short(row.get(name)) for row in rows]) for name in wanted if name not in shown}
    spare = [_spare(name, place) for place, name in enumerate(shown)]
    hint = "choose with --columns, all with --json"
    return listed(pa.table(shown), width=width_of(sys.stdout), hint=hint, spare=spare)


def _spare(name: str, place: int) -> int:
    """When a narrow terminal leaves out this column of a list of jobs: results that matter less first, then settings,
    at last the gap and the test accuracy; job, state and failure stay."""
    if name in LEAST_TELLING:
        return 1_000 + LEAST_TELLING.index(name)
    if name in MOST_TELLING:
        return 1 + MOST_TELLING.index(name)
    return 0 if name in ("job", "state", "failure") else 10 + place


def _short(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def show(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the full history of a job: settings, results, its kept model, attempts, events."""
    from qsweep.orchestrator.arrow import spare_numpy

    spare_numpy()
    from qsweep.orchestrator.joblife import life_of
    from qsweep.orchestrator.layout import say

    place = home_of(home, registry)
    with opened(place) as found:
        life = life_of(place, found, found.catalogue.job(job))
    if as_json:
        write_json(life.content())
        return
    for line in life.lines():
        say(line)


def logs(
    job: JobArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until the job ends.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Print the log of the agent that ran a job last: a line an epoch with each job's training loss."""
    from qsweep.orchestrator.layout import say
    from qsweep.orchestrator.loglines import follow_log, last_lines, log_of

    place = home_of(home, registry)
    with opened(place) as found:
        row = found.catalogue.job(job)
        if not follow:
            path = log_of(place, found, row)
            say("\n".join(last_lines(path, lines)))
            return
        try:
            for line in follow_log(place, found, row, lines):
                say(line)
        except KeyboardInterrupt:
            return
