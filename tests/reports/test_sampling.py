"""Charts of many jobs: which dots are drawn, and what the figure says of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from qsweep.reports.charts.chart import Categories, Chart, Dots, Mark, Panel, Rule
from qsweep.reports.charts.sampling import LEAST, MOST, count_dots, sampled, sampling_note
from qsweep.reports.page.charts import chart_content
from qsweep.reports.page.joblist import JobList

SIZES = (9 * MOST, 3 * MOST, 5)


def identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def series_of(number: int, size: int, *, order: int = 0) -> Dots:
    """Dots whose y rises evenly from 0 to 1 with the number of the job, and whose x is twice that."""
    places = random.Random(order).sample(range(size), size)
    y = [place / size for place in places]
    jobs = tuple(identity(10**6 * number + place) for place in places)
    return Dots(series=number, x=[2 * one for one in y], y=y, jobs=jobs)


def panel_of(*, order: int = 0) -> list[Mark]:
    return [Rule(x=0.5), *(series_of(number, size, order=order) for number, size in enumerate(SIZES))]


def dots_of(marks: Sequence[Mark]) -> list[Dots]:
    return [one for one in marks if isinstance(one, Dots)]


def values_of(dots: Dots) -> dict[str, tuple[float | None, float | None]]:
    """x and y by job."""
    assert not isinstance(dots.x, int)
    return dict(zip(dots.jobs, zip(dots.x, dots.y, strict=True), strict=True))


def test_of_many_dots_a_random_sample_is_drawn_in_proportion_and_a_small_series_whole() -> None:
    marks = sampled(panel_of())
    drawn = dots_of(marks)
    assert marks == [Rule(x=0.5), *drawn]
    counts = [count_dots([one]) for one in drawn]
    assert counts[0] == pytest.approx(3 * counts[1], abs=3)
    assert counts[2] == SIZES[2]
    assert sum(counts) <= MOST + LEAST
    for one in drawn[:2]:
        y = np.array(one.y, dtype=np.float64)
        assert abs(y.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(y))  # of a uniform distribution


def test_a_sample_keeps_what_belongs_to_a_job_and_depends_on_no_order() -> None:
    drawn, shuffled = dots_of(sampled(panel_of())), dots_of(sampled(panel_of(order=1)))
    for one, other, whole in zip(drawn, shuffled, dots_of(panel_of()), strict=True):
        assert values_of(one) == values_of(other)
        assert values_of(one).items() <= values_of(whole).items()


def test_a_figure_says_how_many_are_drawn_and_one_with_few_dots_is_what_it_was() -> None:
    few = [series_of(0, MOST - 1), series_of(1, 1)]
    assert sampled(few) == few
    assert sampling_note([few, []]) == ""
    many = panel_of()
    labels = Categories(labels=())
    chart = Chart(names=("a", "b", "c"), panels=(Panel(x=labels, y=labels, marks=tuple(many)),), minimum=1, columns=1)
    jobs = JobList(ids={"train": []}, content={})
    content = chart_content(chart, jobs)
    shown = sum(len(one["y"]) for one in content["panels"][0]["marks"] if one["type"] == "dots")
    assert content["note"].startswith(f"Of {sum(SIZES):,} dots {shown:,} are drawn")
    assert "note" not in chart_content(Chart(names=("a",), panels=(), minimum=1, columns=1), jobs)
