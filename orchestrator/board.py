"""A sweep at a glance: what a lookout sees, as a live picture on a terminal, or as plain lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby, islice
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qsweep.db.rows import AgentRow, Change, Curve
from qsweep.db.standing import standing
from qsweep.db.states import State
from qsweep.orchestrator.blockage import blocked_words
from qsweep.orchestrator.layout import counted, duration
from qsweep.orchestrator.lookout import Lookout, View, note_of
from qsweep.orchestrator.progress import AVERAGES, rate_text, time_left
from qsweep.orchestrator.standing import without_note
from qsweep.orchestrator.stopped import row, words
from qsweep.reports.table import PRECISION_ORDER, precision_name

COLOURS = {
    State.DONE: "green",
    State.RUNNING: "blue",
    State.QUEUED: "bright_black",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
}
BLOCKS = " ▏▎▍▌▋▊▉█"
MOST_AGENTS = 6
MOST_EVENTS = 5
MOST_WIDTH = 100
PAUSE = 1.0
PLAIN_PAUSE = 15.0
SHARE = 20
"""A pause is at least this many times as long as the look before it …"""
LONGEST = 5.0
"""… but not longer than this, in seconds: what is shown is at work now."""
MOST_CURVES = 5
"""Precisions whose running trainings are shown."""
BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 20


def watch(lookout: Lookout, console: Console) -> None:
    """Show the sweep until nothing waits or runs, live on a terminal, else by a plain line from time to time."""
    if not console.is_terminal:
        for view in _views(lookout, PLAIN_PAUSE):
            console.print(plain_line(view), highlight=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for view in _views(lookout, PAUSE):
            live.update(picture(view, min(console.width, MOST_WIDTH), console.height), refresh=True)


def contents(lookout: Lookout) -> Iterator[dict[str, Any]]:
    """Each look as the content of a line of JSON, until nothing waits or runs."""
    return (content(view) for view in _views(lookout, PAUSE))


def _views(lookout: Lookout, pause: float) -> Iterator[View]:
    while True:
        started = time.monotonic()
        view = lookout.look()
        yield view
        if view.is_over:
            return
        time.sleep(pause_after(time.monotonic() - started, pause))


def pause_after(look: float, least: float) -> float:
    """Seconds to wait after a look that took so long."""
    return max(least, min(SHARE * look, LONGEST))


def content(view: View) -> dict[str, Any]:
    """One look for JSON."""
    return {
        "sweep": view.sweep.title,
        "state": standing(view.sweep, view.counts),
        "of": view.counts.total,
        "size": view.sweep.size,
        **{state.value: getattr(view.counts, state.value) for state in State},
        "running": view.counts.running - view.losses.jobs,
        "lost": view.losses.jobs,
        "blocked": sum(one.jobs for one in view.blocked),
        "diverged": view.counts.diverged,
        "jobs_per_minute": view.rate,
        "seconds_left": view.seconds_left,
        "unreadable": view.unreadable,
        "means": {
            name: {"models": mean.models, **{metric: mean.of(metric) for metric in mean.sums}}
            for name, mean in view.means.items()
        },
        "agents": [
            {"agent": one.id, "host": one.host, "device": one.device, "lost": one.id in view.lost, **note_of(one)}
            for one in view.agents
        ],
        "stopped": [row(one) for one in view.stopped],
        "epochs": [
            {"job": curve.job, "attempt": curve.attempt, "final": False, **epoch}
            for curve in view.curves
            for epoch in curve.epochs
        ],
    }


def plain_line(view: View) -> str:
    """One look in one line."""
    counts, lost, blocked = view.counts, view.losses.jobs, sum(one.jobs for one in view.blocked)
    return (
        f"{_clock(view.at)} {view.sweep.title}: {counts.done}/{counts.total} done"
        f"{f' ({counts.diverged} diverged)' if counts.diverged else ''}, {counts.running - lost} running, "
        f"{counts.queued - blocked} queued, {counts.failed} failed{f', {lost} lost' if lost else ''}"
        f"{f', {blocked} blocked' if blocked else ''}"
        f"{f' (of {view.sweep.size} in the sweep)' if view.missing else ''}"
        f" · {rate_text(view.rate)} · {_left(view)}" + (f" · {_unreadable(view)}" if view.unreadable else "")
    )


def _unreadable(view: View) -> str:
    return f"the results of {counted(view.unreadable, 'done job')} are lost: see qsweep db check"


def picture(view: View, width: int, height: int) -> RenderableType:
    """One look as a terminal of that size shows it."""
    parts: list[RenderableType] = [_head(view, width), *_bars(view, width), _speed(view), Text()]
    parts += [Text(words, style="yellow") for words in notes(view)]
    if view.unreadable:
        parts += [Text(_unreadable(view), style="red"), Text()]
    if view.means:
        parts += [_means(view), Text()]
    parts += _curves(view)
    room = max(height - sum(_lines(part) for part in parts) - 3, 2)
    agents = min(len(view.agents), MOST_AGENTS, max(room - MOST_EVENTS - 1, 1))
    parts += _agents(view, agents, width)
    events = list(_events(view.recent, min(MOST_EVENTS, max(room - agents - 1, 1))))
    if events:
        parts += [Text(), *events]
    for part in parts:
        if isinstance(part, Text):
            part.truncate(width, overflow="ellipsis")
    return Group(*parts)


def _lines(part: RenderableType) -> int:
    return part.row_count + 1 if isinstance(part, Table) else 1


def _head(view: View, width: int) -> Text:
    sweep = view.sweep
    state = standing(sweep, view.counts)
    right = _clock(view.at)
    left = Text.assemble((sweep.title, "bold"), f"  {state}")
    left.truncate(width - len(right) - 1, overflow="ellipsis")
    return left + Text(" " * (width - left.cell_len - len(right))) + Text(right, style="dim")


def _bars(view: View, width: int) -> Iterator[Text]:
    """One line a state that has jobs: its name, its count, its share as a bar and in percent."""
    total = max(view.counts.total, 1)
    room = width - 28
    for state in COLOURS:
        count = getattr(view.counts, state.value) - (view.losses.jobs if state is State.RUNNING else 0)
        if not count and state not in (State.QUEUED, State.RUNNING, State.DONE):
            continue
        lost = f" ({view.counts.diverged} diverged)" if state is State.DONE and view.counts.diverged else ""
        yield Text.assemble(
            f"{state.value:<10}{count:>9,}  ",
            (f"{_bar(count / total, room)}", COLOURS[state]),
            f"{100 * count / total:>6.1f}%{lost}",
        )
    if view.losses.jobs:
        yield Text(f"{'lost':<10}{view.losses.jobs:>9,}  {view.losses.cause()}", style="red")
    if view.missing:
        yield Text(f"{'in all':<10}{view.counts.total:>9,}  launched, of {view.sweep.size:,} in the sweep", style="dim")


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    eighths = max(eighths, 1) if share else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BLOCKS[rest] if rest else "")).ljust(width)


def _speed(view: View) -> Text:
    return Text.assemble(
        (rate_text(view.rate), "bold"), f" over the last {duration(view.window)} · ", (_left(view), "bold")
    )


def _left(view: View) -> str:
    if view.sweep.state.value == "paused" and not view.is_over:
        return "paused"
    return time_left(view.seconds_left, view.still_open)


def _means(view: View) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    behind = "" if view.known >= view.counts.done else f" (of {view.known:,} read so far)"
    table.add_column(f"mean of models{behind}")
    table.add_column("models", justify="right")
    for _, label, _, _ in AVERAGES:
        table.add_column(label, justify="right")
    for precision in PRECISION_ORDER:
        if mean := view.means.get(precision):
            cells = [f"{factor * mean.of(name):.{digits}f}" for name, _, factor, digits in AVERAGES]
            table.add_row(precision, f"{mean.models:,}", *cells)
    return table


def notes(view: View) -> list[str]:
    """What a user should do something about, a line each."""
    lines = [view.losses.words(view.sweep)] if view.losses.jobs else []
    lines += blocked_words(view.sweep.title, view.blocked)
    lines += [words(one) for one in view.stopped]
    return lines


def _curves(view: View) -> list[RenderableType]:
    """The trainings that are not done, by precision: how far they are, and how their training loss fell."""
    groups: dict[str, list[Curve]] = {}
    for curve in view.curves:
        groups.setdefault(precision_name(curve.training.bits), []).append(curve)
    lines: list[RenderableType] = []
    for precision in [one for one in PRECISION_ORDER if one in groups][:MOST_CURVES]:
        losses = mean_losses(groups[precision])
        epochs = max(one.training.recipe.epochs for one in groups[precision])
        last = "not finite" if losses[-1] is None else f"{losses[-1]:.4f}"
        lines.append(
            Text.assemble(
                f"{precision:<6}{len(groups[precision]):>5,} in training, epoch {len(losses)} of {epochs}, "
                f"train loss {last}  ",
                (sparkline(losses), "blue"),
            )
        )
    return [*lines, Text()] if lines else []


def mean_losses(curves: Sequence[Curve]) -> list[float | None]:
    """The mean training loss of each epoch, over the trainings that have done it; None where none was finite."""
    found: list[float | None] = []
    for epoch in range(max(len(curve.epochs) for curve in curves)):
        values = [curve.epochs[epoch]["train_loss"] for curve in curves if len(curve.epochs) > epoch]
        finite = [value for value in values if value is not None]
        found.append(math.fsum(finite) / len(finite) if finite else None)
    return found


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as bars from the least to the greatest of them."""
    shown = values[-MOST_BARS:]
    finite = [value for value in shown if value is not None]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    return "".join(
        " " if value is None else BARS[round((value - low) / span * (len(BARS) - 1)) if span else 0] for value in shown
    )


def _agents(view: View, most: int, width: int) -> list[RenderableType]:
    if not view.agents:
        return [Text("no agent is at work", style="dim")]
    lines: list[RenderableType] = [
        _agent(agent, width, held=view.held.get(agent.id, 0), lost=agent.id in view.lost)
        for agent in sorted(view.agents, key=_busy)[:most]
    ]
    if len(view.agents) > most:
        lines.append(Text(f"… and {len(view.agents) - most} more agents", style="dim"))
    return lines


def _busy(agent: AgentRow) -> tuple[bool, int]:
    """Those that say what they do come first."""
    return not agent.note, agent.id


def _agent(agent: AgentRow, width: int, *, held: int, lost: bool) -> Text:
    note = note_of(agent)
    name = f"agent {agent.id} {agent.host} {agent.device}"
    if agent.expired:
        return Text.assemble(f"{name}  ", (f"silent, its lease ran out {duration(max(agent.overdue, 0))} ago", "red"))
    if lost:
        return Text.assemble(f"{name}  ", ("its process is gone", "red"))
    if not note:
        return Text.assemble(f"{name}  ", (without_note(held), "dim"))
    kind, data, network, *_ = (*str(note["cohort"]).split("/"), "", "")
    share = note["step"] / max(note["steps"], 1)
    what = f"{note['jobs']} × {kind} {data} {network}"
    bar = f"{_bar(share, 10)}{100 * share:>4.0f}%"
    left = Text(f"{name}  {what}")
    left.truncate(width - len(bar) - 1, overflow="ellipsis", pad=True)
    return left + Text(" ") + Text(bar, style="blue")


def _events(recent: Sequence[Change], most: int) -> Iterator[Text]:
    """The newest changes, those of one moment and kind together, the newest last."""

    def kind(change: Change) -> tuple[str, State, State, str]:
        return _clock(change.at), change.source, change.target, change.detail

    groups = ((key, list(members)) for key, members in groupby(recent, key=kind))
    for (at, source, target, detail), changes in reversed(list(islice(groups, most))):
        what = changes[0].identity[:12] if len(changes) == 1 else f"{len(changes)} jobs"
        yield Text.assemble(
            (f"{at}  ", "dim"),
            f"{what:<13}{source.value} → ",
            (target.value, COLOURS[target]),
            f"  {detail.splitlines()[0]}" if detail else "",
        )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")
