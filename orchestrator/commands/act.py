"""What is done to a launched sweep: `retry`, `cancel`, `invalidate` and `delete`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from qsweep.db.states import FailureClass, State
from qsweep.orchestrator.choosing import choose_sweep, confirm
from qsweep.orchestrator.commands.look import opened
from qsweep.orchestrator.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    RegistryOption,
    SweepArgument,
    WhereOption,
    YesOption,
    home_of,
    size_text,
)
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    from qsweep.db.rows import Sweep
    from qsweep.orchestrator.deleting import Freed


class Ended(StrEnum):
    """The states that a job can be retried from."""

    FAILED = "failed"
    CANCELLED = "cancelled"


def add_to(app: typer.Typer) -> None:
    app.command("retry", epilog="Example: qsweep retry digits-grid --class crash")(retry)
    app.command("cancel", epilog="Example: qsweep cancel digits-grid")(cancel)
    app.command(
        "invalidate", epilog="Example: qsweep invalidate digits-grid --where 'bits == 2' --reason 'wrong step size'"
    )(invalidate)
    app.command("delete", epilog="Example: qsweep delete digits-grid --dry-run")(delete)


def retry(
    name: SweepArgument,
    state: Annotated[Ended, typer.Option("--state", help="Which jobs.")] = Ended.FAILED,
    failure: Annotated[FailureClass | None, typer.Option("--class", help="Only failures of this class.")] = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Queue a sweep's failed (or cancelled) jobs again, with fresh budgets.

    Measures that failed because the trained model is not there take the training along: it is repeated.
    """
    from qsweep.orchestrator.giving_up import without_file
    from qsweep.orchestrator.lost_jobs import find_losses, lost_agents

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = choose_sweep(found, name)
        ended = State(state.value)
        gone = without_file(place, found, sweep, ended)
        done = found.sweeps.retry(sweep.id, ended, failure_class=failure, gone=gone)
        losses = find_losses(found, sweep.id, lost_agents(found.catalogue.agents()))
    if done.trainings:
        one, more = "training whose model is not there is", "trainings whose models are not there are"
        typer.echo(f"{counted(done.trainings, one, more)} repeated, for the measures that failed")
    then = f"; run them with: qsweep resume {sweep.title}" if done.queued or done.trainings else ""
    typer.echo(f"{sweep.title}: {counted(done.queued, 'job')} queued again{then}")
    if losses.jobs:
        typer.echo(losses.words(sweep))


def cancel(
    name: SweepArgument, yes: YesOption = False, home: HomeOption = DEFAULT_HOME, registry: RegistryOption = None
) -> None:
    """Withdraw a sweep: its unfinished jobs stop, unless another sweep wants them. Results stay."""
    from qsweep.db.standing import standing
    from qsweep.orchestrator.giving_up import withdraw

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = choose_sweep(found, name)
        counts = found.catalogue.counts(sweep.id)
        if counts.open:
            waiting = f"{counted(counts.queued, 'job waits', 'jobs wait')} and {counts.running} run"
            confirm(f"Cancel {sweep.title}, of which {waiting}?", yes=yes, unasked=True)
        done, problems = withdraw(place, found, sweep)
    for problem in problems:
        typer.echo(f"note: {problem}", err=True)
    if done.over:
        typer.echo(f"{sweep.title}: {standing(sweep, counts)}; nothing to cancel")
        return
    running = counted(done.running, "running one")
    typer.echo(f"{sweep.title}: {counted(done.queued, 'queued job')} cancelled, {running} asked to stop")


def invalidate(
    name: SweepArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays with the old attempts.")],
    where: WhereOption = None,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Discard results and re-run the jobs and their children. No file is deleted."""
    from qsweep.orchestrator.standing import stranded_words
    from qsweep.sweeps.spec import select

    with opened(home_of(home, registry)) as found:
        sweep = choose_sweep(found, name)
        done = {row.identity: row for row in found.catalogue.jobs(sweep.id, state=State.DONE)}
        chosen = select([row.job for row in done.values()], where=where) if done else []
        ids = [done[job.identity].id for job in chosen]
        if ids:
            typer.echo(
                f"{sweep.title}: the results of {counted(len(ids), 'job')}, and what was measured of them, "
                "count no more"
            )
            _name_others(found.sweeps.sharing(ids, sweep.id), "other sweeps lose them too")
            confirm("Invalidate them?", yes=yes, unasked=False)
        count = found.sweeps.invalidate(ids, reason)
        stranded = stranded_words(found)
    results = "result" if count == 1 else "results"
    typer.echo(
        f"{sweep.title}: {count} {results} invalidated, jobs re-queued; run them with: qsweep resume {sweep.title}"
    )
    for line in stranded:
        typer.echo(line, err=True)


def delete(
    name: SweepArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a sweep, with the results and models that no other sweep shares. What goes is shown first."""
    from qsweep.orchestrator.deleting import delete_sweep, look_at

    place = home_of(home, registry)
    with opened(place) as found:
        sweep = choose_sweep(found, name)
        going = look_at(place, found, sweep)
        _show_deletion(sweep, going, as_json=as_json)
        if dry_run:
            return
        found.sweeps.check_deletable(sweep)
        confirm(f"Delete {sweep.title}?", yes=yes, unasked=False)
        delete_sweep(place, found, sweep)
    typer.echo(f"{sweep.title} is deleted", err=True)
    typer.echo("its results files go with qsweep gc, once no query can be reading them any more", err=True)


def _show_deletion(sweep: Sweep, going: Freed, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"sweep": sweep.title, **going.content()}))
        return
    typer.echo(f"{sweep.title}: {counted(going.deletion.jobs, 'job goes', 'jobs go')}, with")
    for what, count, size in going.parts():
        typer.echo(f"  {count:>7} {what:<16}{size_text(size):>10}")
    typer.echo(f"  {'':>7} {'in all':<16}{size_text(going.size):>10}")
    _name_others(going.deletion.shared, "jobs that other sweeps share stay")


def _name_others(shared: Mapping[str, int], what: str) -> None:
    if shared:
        typer.echo(f"{what}: " + ", ".join(f"{count} of {title}" for title, count in shared.items()))
