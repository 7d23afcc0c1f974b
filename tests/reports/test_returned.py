"""What is said of runs of functions and commands: which settings their numbers go with, and how."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qsweep.reports.analysis.explained import between, explain, kruskal_wallis
from qsweep.reports.charts.chart import BoxPlot, Line
from qsweep.reports.charts.general import curves_chart, distributions_chart, effects_chart
from qsweep.reports.declaration import Column, Declaration
from qsweep.reports.of_calls import lacking, with_numbers
from qsweep.reports.returned import Returned, Varied
from qsweep.reports.table import make_table
from qsweep.reports.widening import called


@pytest.fixture
def found() -> Returned:
    """24 runs at three rates and two kinds, two of which returned no loss; ties are there."""
    draw = np.random.default_rng(0)
    jobs = pd.Index([f"{number:032x}" for number in range(24)], name="job")
    rate, kind = np.arange(24) % 3, np.arange(24) // 3 % 2
    loss = np.round(rate + 0.5 * draw.normal(size=24), 1)
    loss[[3, 8]] = np.nan
    steps = [(job, step, "loss", float(rate[n] + step)) for n, job in enumerate(jobs) for step in (1, 2, 3)]
    return Returned(
        noun="train",
        expected=30,
        axes=(
            Varied(name="rate", values=(0.1, 0.2, 0.4), places=pd.Series(rate, jobs, dtype=object)),
            Varied(name="kind", values=("a", (1, 2)), places=pd.Series(kind, jobs, dtype=object)),
        ),
        settings=pd.DataFrame(index=jobs),
        numbers=pd.DataFrame({"loss": loss, "same": 1.0}, index=jobs),
        logged=pd.DataFrame(steps, columns=["job", "step", "name", "value"]),
        diverged=0,
    )


def test_the_tests_are_those_of_scipy(found: Returned) -> None:
    by = {(one.number, one.setting): one for one in explain(found)}
    values = found.numbers["loss"].dropna()
    places = found.axes[0].places[values.index].astype(int)
    groups = [values[places == place].to_numpy() for place in range(3)]
    assert kruskal_wallis(values, places) == pytest.approx(stats.kruskal(*groups).pvalue, rel=1e-9)
    squares = [len(group) * (group.mean() - values.mean()) ** 2 for group in groups]
    assert between(values, places) == pytest.approx(sum(squares) / (values.var(ddof=0) * len(values)), rel=1e-12)
    rate = by["loss", "rate"]
    assert rate.tau == pytest.approx(stats.kendalltau(places, values).statistic, abs=1e-12)
    assert rate.p_value == pytest.approx(2 * stats.kruskal(*groups).pvalue, rel=1e-9), "after Holm over two"
    assert (rate.runs, rate.values, by["loss", "kind"].tau) == (22, 3, None)
    assert (by["same", "rate"].share, by["same", "rate"].p_value) == (None, None)


def test_charts_show_every_setting_and_leave_out_what_is_missing(found: Returned) -> None:
    effects = effects_chart(found)
    assert effects is not None
    (line,) = effects.choices[0].panels[0].marks
    assert isinstance(line, Line)
    loss = found.numbers["loss"]
    assert list(line.y) == pytest.approx([loss[::3].mean(), loss[1::3].mean(), loss[2::3].mean()])
    distributions = distributions_chart(found)
    assert distributions is not None
    by_rate, by_kind = distributions.choices
    assert (by_rate.names, by_kind.names) == (("0.1", "0.2", "0.4"), ("a", "1, 2"))
    assert sum(mark.count for mark in by_kind.panels[0].marks if isinstance(mark, BoxPlot)) == 22
    curves = curves_chart(found)
    assert curves is not None
    medians = [mark.y for mark in curves.choices[0].panels[0].marks if isinstance(mark, Line)]
    assert medians == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]


def test_a_run_that_returned_no_such_number_has_not_diverged_and_a_mean_says_over_how_many_it_is() -> None:
    """Runs may return what they like: means are over those that have the number."""
    jobs = {name: {"kind": name[0]} for name in ("a1", "a2", "b1", "b2", "b3")}
    returned = {"a1": {"loss": 1.0, "hits": 3}, "a2": {"loss": 3.0, "hits": "none"}, "b1": {"loss": 5.0},
                "b2": {"loss": np.nan}, "b3": {"loss": [1.0]}}  # fmt: skip
    rows = with_numbers([{"job": job, **row} for job, row in returned.items()], ["loss", "hits"], "table")
    columns = [Column(name=name, label=name, value=name, decimals=2) for name in ("loss", "hits")]
    declared = Declaration(title="t", kind="returned", rows=["kind"], columns=columns, averages=[], name="t")
    table = make_table(declared, heading="h", jobs=jobs, results=rows)
    cells = [[(cell.mean, cell.count) for cell in row.cells] for row in table.rows]
    assert cells == [[(2.0, 2), (3.0, 1)], [(5.0, 1), (None, 0)]]
    assert [(row.done, row.diverged) for row in table.rows] == [(2, ()), (3, ("b2",))]
    assert lacking(table) == [
        "A number by some of the runs alone: a: hits by 1 of 2.",
        "A number by some of the runs alone: b: loss by 1 of 2.",
    ]


def test_a_returned_value_is_called_as_no_setting_and_no_other_returned_value() -> None:
    settings, returned = {"lr": 1, "returned_act": 2}, {"lr": 3, "returned_lr": 4, "act": 5, "loss": 6}
    names = [called(name, settings, returned) for name in returned]
    assert names == ["returned_returned_lr", "returned_lr", "act", "loss"]
