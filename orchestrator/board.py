"""A sweep at a glance: what a lookout sees, as a live picture on a terminal, or as plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby, islice
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db.rows import AgentRow, Change
from db.standing import standing
from db.states import State
from orchestrator.lookout import Lookout, View, note_of
from orchestrator.progress import AVERAGES, duration
from reports.table import PRECISION_ORDER

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
"""A pause is at least this many times as long as the look before it."""


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
        time.sleep(max(pause, SHARE * (time.monotonic() - started)))


def content(view: View) -> dict[str, Any]:
    """One look for JSON."""
    return {
        "sweep": view.sweep.title,
        "state": standing(view.sweep, view.counts),
        **{state.value: getattr(view.counts, state.value) for state in State},
        "diverged": view.counts.diverged,
        "jobs_per_minute": view.rate,
        "seconds_left": view.seconds_left,
        "means": {
            name: {"models": mean.models, **{metric: mean.of(metric) for metric in mean.sums}}
            for name, mean in view.means.items()
        },
        "agents": [{"agent": one.id, "host": one.host, "device": one.device, **note_of(one)} for one in view.agents],
    }


def plain_line(view: View) -> str:
    """One look in one line."""
    counts = view.counts
    return (
        f"{_clock(view.at)} {view.sweep.title}: {counts.done}/{view.sweep.size} done, {counts.running} running, "
        f"{counts.queued} queued, {counts.failed} failed · {view.rate:.1f} jobs/min · {_left(view)}"
    )


def picture(view: View, width: int, height: int) -> RenderableType:
    """One look as a terminal of that size shows it."""
    parts: list[RenderableType] = [_head(view, width), *_bars(view, width), _speed(view), Text()]
    if view.means:
        parts += [_means(view), Text()]
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
    total = max(view.sweep.size, view.counts.total, 1)
    room = width - 28
    for state in COLOURS:
        count = getattr(view.counts, state.value)
        if not count and state not in (State.QUEUED, State.RUNNING, State.DONE):
            continue
        lost = f" ({view.counts.diverged} diverged)" if state is State.DONE and view.counts.diverged else ""
        yield Text.assemble(
            f"{state.value:<10}{count:>9,}  ",
            (f"{_bar(count / total, room)}", COLOURS[state]),
            f"{100 * count / total:>6.1f}%{lost}",
        )
    if view.missing:
        yield Text(f"{'unasked':<10}{view.missing:>9,}  left out by --where or --limit so far", style="dim")


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    eighths = max(eighths, 1) if share else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BLOCKS[rest] if rest else "")).ljust(width)


def _speed(view: View) -> Text:
    return Text.assemble(
        (f"{view.rate:.1f} jobs/min", "bold"), f" over the last {duration(view.window)} · ", (_left(view), "bold")
    )


def _left(view: View) -> str:
    if view.is_over:
        return "nothing left"
    if view.sweep.state.value == "paused":
        return "paused"
    return "time left unknown" if view.seconds_left is None else f"about {duration(view.seconds_left)} left"


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


def _agents(view: View, most: int, width: int) -> list[RenderableType]:
    if not view.agents:
        return [Text("no agent is at work", style="dim")]
    lines: list[RenderableType] = [_agent(agent, view.at, width) for agent in view.agents[:most]]
    if len(view.agents) > most:
        lines.append(Text(f"… and {len(view.agents) - most} more agents", style="dim"))
    return lines


def _agent(agent: AgentRow, now: float, width: int) -> Text:
    note = note_of(agent)
    name = f"agent {agent.id} {agent.host} {agent.device}"
    if agent.expired:
        return Text.assemble(f"{name}  ", (f"silent for {duration(max(now - agent.beat_at, 0))}", "red"))
    if not note:
        return Text.assemble(f"{name}  ", ("starting", "dim"))
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
