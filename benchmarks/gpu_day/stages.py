"""The stages of the day in the order of their worth. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: its module of pieces, and its minutes of a day of `DAY`; the last that is run takes what is left."""

    name: str
    title: str
    minutes: float | None


DAY = 30.0
STAGES = (
    Stage(name="runs", title="Does it run, and compute what plain PyTorch computes?", minutes=3),
    Stage(name="speed", title="How fast does it train?", minutes=8),
    Stage(name="flatness", title="How flat, how fast?", minutes=4),
    Stage(name="components", title="Does every component of the table compute what it should?", minutes=4),
    Stage(name="portion", title="A real piece of a sweep, through the bundle", minutes=None),
)
NAMES = tuple(one.name for one in STAGES)


def seconds_of(stage: Stage, minutes: float, left: float) -> float:
    """The budget of a stage: the day has that many minutes, of which that many seconds are left."""
    return left if stage.minutes is None else min(left, stage.minutes / DAY * minutes * 60)
