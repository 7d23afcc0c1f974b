"""Charts of many jobs: which dots are drawn, and what the figure says of it."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from qsweep.reports.charts.chart import Categories, Chart, Dots, Mark, Panel, Rule
from qsweep.reports.charts.sampling import LEAST, MOST, count_dots, sampled, sampling_note
from qsweep.reports.page.charts import _chart
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


def test_of_many_dots_a_random_sample_is_drawn_in_proportion_and_a_small_series_whole() -> None:
    rule, *drawn = sampled(panel_of())
    assert rule == Rule(x=0.5)
    assert all(isinstance(one, Dots) for one in drawn)
    counts = [count_dots([one]) for one in drawn]
    assert counts[0] == pytest.approx(3 * counts[1], abs=3)
    assert counts[2] == SIZES[2]
    assert sum(counts) <= MOST + LEAST
    for one in drawn[:2]:
        y = np.array(one.y, dtype=np.float64)
        assert abs(y.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(y))  # of a uniform distribution


def test_a_sample_keeps_what_belongs_to_a_job_and_depends_on_no_order() -> None:
    values = [dict(zip(one.jobs, zip(one.x, one.y, strict=True), strict=True)) for one in panel_of()[1:]]
    drawn, shuffled = sampled(panel_of())[1:], sampled(panel_of(order=1))[1:]
    for one, other, whole in zip(drawn, shuffled, values, strict=True):
        assert set(one.jobs) == set(other.jobs)
        assert [whole[job] for job in one.jobs] == list(zip(one.x, one.y, strict=True))


def test_a_figure_says_how_many_are_drawn_and_one_with_few_dots_is_what_it_was() -> None:
    few = [series_of(0, MOST - 1), series_of(1, 1)]
    assert sampled(few) == few
    assert sampling_note([few, []]) == ""
    many = panel_of()
    labels = Categories(labels=())
    chart = Chart(names=("a", "b", "c"), panels=(Panel(x=labels, y=labels, marks=tuple(many)),), minimum=1, columns=1)
    jobs = JobList(ids={"train": []}, content={})
    content = _chart(chart, jobs)
    shown = sum(len(one["y"]) for one in content["panels"][0]["marks"] if one["type"] == "dots")
    assert content["note"].startswith(f"Of {sum(SIZES):,} dots {shown:,} are drawn")
    assert "note" not in _chart(Chart(names=("a",), panels=(), minimum=1, columns=1), jobs)
