"""Fewer dots where there are too many to draw: a random sample of the jobs, the same ones wherever they are drawn."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from qsweep.reports.charts.chart import Dots, Mark

MOST = 2_000
"""Dots of a panel of which all are drawn; of more, about as many."""
LEAST = 100
"""Dots of a series of which all are drawn whatever stands beside them."""


def sampled(marks: Sequence[Mark]) -> list[Mark]:
    """The marks of a panel with at most MOST dots, in proportion to those of each series, but at least LEAST of one.

    Chosen are the jobs with the smallest identities. These are hashes of settings, so that is a simple random sample,
    and depends neither on the order of the rows nor on anything that was measured.
    """
    whole = count_dots(marks)
    if whole <= MOST:
        return list(marks)
    return [_sample(one, MOST / whole) if isinstance(one, Dots) else one for one in marks]


def count_dots(marks: Iterable[Mark]) -> int:
    """How many dots are among the marks."""
    return sum(len(one.jobs) for one in marks if isinstance(one, Dots))


def _sample(dots: Dots, share: float) -> Dots:
    count = max(math.floor(share * len(dots.jobs)), min(LEAST, len(dots.jobs)))
    kept = sorted(heapq.nsmallest(count, range(len(dots.jobs)), key=dots.jobs.__getitem__))
    return replace(
        dots,
        x=dots.x if isinstance(dots.x, int) else [dots.x[place] for place in kept],
        y=[dots.y[place] for place in kept],
        jobs=tuple(dots.jobs[place] for place in kept),
    )


def sampling_note(panels: Sequence[Sequence[Mark]]) -> str:
    """What a figure says of its panels, by that with the most dots; nothing where every dot is drawn."""
    most = max(panels, key=count_dots, default=())
    whole, drawn = count_dots(most), count_dots(sampled(most))
    if drawn == whole:
        return ""
    return f"Of {whole:,} dots {drawn:,} are drawn, a random sample; everything else counts all of them."
