"""Progress at a glance, of a launch and of what a lookout sees: a live picture on a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby, islice
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qsweep.db.progress import Progress, Rhythm, note_of
from qsweep.db.rows import AgentRow, Change
from qsweep.db.standing import standing
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.blockage import blocked_words
from qsweep.orchestrator.layout import broken, counted, duration, tell
from qsweep.orchestrator.lookout import Lookout, View
from qsweep.orchestrator.progress import AVERAGES, Means
from qsweep.orchestrator.standing import without_note
from qsweep.orchestrator.stopped import row, words

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
SHARE = 60
"""A pause is at least this many times as long as the look before it …"""
LONGEST = 5.0
"""… but not longer than this, in seconds: what is shown is at work now."""
MOST_CURVES = 5
"""Precisions whose running trainings are shown."""
BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 20


class Display:
    """Shows progress: as a live picture on a terminal, else by plain lines, ever more rarely."""

    def __init__(self, console: Console, rhythm: Rhythm | None = None) -> None:
        self._console = console
        self._rhythm = rhythm or Rhythm()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(
        self, picture: Callable[[int, int], RenderableType], line: str, *, share: float, last: bool = False
    ) -> None:
        """Show the picture of that width and height, or say the line if one is due now that this share is done."""
        if self._console.is_terminal:
            self._live.update(picture(min(self._console.width, MOST_WIDTH), self._console.height), refresh=True)
        elif self._rhythm.is_due(share) or last:
            tell(self._console, line)


def watch(lookout: Lookout, console: Console) -> None:
    """Show the sweep until nothing waits or runs."""
    with Display(console) as display:
        for view in _views(lookout):
            display.show(partial(picture, view), plain_line(view), share=view.progress.share, last=view.is_over)


def contents(lookout: Lookout) -> Iterator[dict[str, Any]]:
    """Each look as the content of a line of JSON, until nothing waits or runs."""
    return (content(view) for view in _views(lookout))


def _views(lookout: Lookout) -> Iterator[View]:
    while True:
        started = time.monotonic()
        view = lookout.look()
        yield view
        if view.is_over:
            return
        time.sleep(pause_after(time.monotonic() - started, PAUSE))


def pause_after(look: float, least: float) -> float:
    """Seconds to wait after a look that took so long."""
    return max(least, min(SHARE * look, LONGEST))


def content(view: View) -> dict[str, Any]:
    """One look for JSON."""
    progress, counts = view.progress, view.progress.counts
    return {
        "sweep": view.sweep.title,
        "state": standing(view.sweep, counts),
        "of": counts.total,
        "size": view.sweep.size,
        **{state.value: getattr(counts, state.value) for state in State},
        "running": counts.running - progress.lost,
        "lost": progress.lost,
        "blocked": progress.blocked,
        "diverged": counts.diverged,
        "jobs_per_minute": progress.rate,
        "seconds_left": progress.seconds_left,
        "unreadable": view.unreadable,
        "means": {
            str(called): {"models": mean.models, **{metric: mean.of(metric) for metric in mean.sums}}
            for called, mean in view.means.items()
        },
        "agents": [
            {"agent": one.id, "host": one.host, "device": one.device, "lost": one.id in view.lost, **note_of(one.note)}
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
    lost = f" · {_unreadable(view)}" if view.unreadable else ""
    return f"{_clock(view.at)} {view.sweep.title}: {view.progress.line()}{lost}"


def _unreadable(view: View) -> str:
    return f"the results of {counted(view.unreadable, 'done job')} are lost: see qsweep db check"


def launch_picture(title: str, progress: Progress, means: Means, width: int) -> RenderableType:
    """What a launch shows of its jobs."""
    return Group(Text(title, style="bold"), *_overall(progress, width), _means(means))


def picture(view: View, width: int, height: int) -> RenderableType:
    """One look as a terminal of that size shows it."""
    progress = view.progress
    behind = "" if view.known >= progress.counts.done else f"{view.known:,} of {progress.counts.done:,} read so far"
    parts: list[RenderableType] = [_head(view, width), *_overall(progress, width, view), Text()]
    parts += [Text(line, style="yellow") for words in notes(view) for line in broken(words, width).split("\n")]
    if view.unreadable:
        parts += [*(Text(line, style="red") for line in broken(_unreadable(view), width).split("\n")), Text()]
    if view.means:
        parts += [_means(view.means), *([Text(behind, style="dim")] if behind else []), Text()]
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
    state = standing(sweep, view.progress.counts)
    right = _clock(view.at)
    left = Text.assemble((sweep.title, "bold"), f"  {state}")
    left.truncate(width - len(right) - 1, overflow="ellipsis")
    return left + Text(" " * (width - left.cell_len - len(right))) + Text(right, style="dim")


def _overall(progress: Progress, width: int, view: View | None = None) -> Iterator[Text]:
    """One line a state that has jobs: its name, its count, its share as a bar and in percent; then the speed."""
    counts = progress.counts
    shown = {State.DONE: counts.done, State.RUNNING: progress.running, State.QUEUED: progress.queued}
    shown |= {State.FAILED: counts.failed, State.CANCELLED: counts.cancelled}
    diverged = f" ({counts.diverged} diverged)" if counts.diverged else ""
    for state, count in shown.items():
        if count or state not in (State.FAILED, State.CANCELLED):
            share = count / max(counts.total, 1)
            yield Text.assemble(
                f"{state.value:<10}{count:>9,}  ",
                (_bar(share, width - 28 - len(diverged)), COLOURS[state]),
                f"{100 * share:>6.1f}%{diverged if state is State.DONE else ''}",
            )
    beside = [
        ("lost", progress.lost, view.losses.cause() if view else "", "red"),
        ("blocked", progress.blocked, "can't run as things stand", "yellow"),
        ("away", counts.away, "checked out to bundles", "dim"),
    ]
    if progress.size > counts.total:
        beside.append(("in all", counts.total, f"launched, of {progress.size:,} in the sweep", "dim"))
    for name, count, about, style in beside:
        if count:
            yield Text(f"{name:<10}{count:>9,}  {about}", style=style)
    left = "paused" if view and view.sweep.state is SweepState.PAUSED and not view.is_over else progress.time_left()
    over = f" over the last {duration(progress.seconds)} · " if progress.seconds else " · "
    yield Text.assemble((progress.rate_text(), "bold"), over, (left, "bold"))


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    eighths = max(eighths, 1) if share else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BLOCKS[rest] if rest else "")).ljust(width)


def _means(means: Means) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("mean of models")
    table.add_column("models", justify="right")
    for _, label, _, _ in AVERAGES:
        table.add_column(label, justify="right")
    for called, mean in sorted(means.items()):
        cells = [f"{factor * mean.of(name):.{digits}f}" for name, _, factor, digits in AVERAGES]
        table.add_row(str(called), f"{mean.models:,}", *cells)
    return table


def notes(view: View) -> list[str]:
    """What a user should do something about, a line each."""
    lines = [view.losses.words(view.sweep)] if view.losses.jobs else []
    lines += blocked_words(view.sweep.title, view.blocked)
    lines += [words(one) for one in view.stopped]
    return lines


def _curves(view: View) -> list[RenderableType]:
    """The trainings that are not done, by precision: how far they are, and how their training loss fell."""
    lines: list[RenderableType] = []
    for one in view.falls[:MOST_CURVES]:
        last = "not finite" if one.losses[-1] is None else f"{one.losses[-1]:.4f}"
        lines.append(
            Text.assemble(
                f"{one.called!s:<6}{one.trainings:>5,} in training, epoch {len(one.losses)} of {one.epochs}, "
                f"train loss {last}  ",
                (sparkline(one.losses), "blue"),
            )
        )
    return [*lines, Text()] if lines else []


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
    note = note_of(agent.note)
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
