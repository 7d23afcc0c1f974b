"""Contenders that take steps in turn in one process, because the speed of a machine drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Step = Callable[[], Any]
WARM_UP = 2
"""Turns that aren't counted."""


def timed(steps: Mapping[str, Step], turns: int) -> dict[str, list[float]]:
    """Processor seconds of every step of each contender."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + turns):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn >= WARM_UP:
                found[name].append(time.process_time() - started)
    return found


def ratio_of(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """How many times as long `one` takes, the median over the turns: a step of each stands beside the other's."""
    return statistics.median(slow / fast for slow, fast in zip(seconds[one], seconds[other], strict=True))
