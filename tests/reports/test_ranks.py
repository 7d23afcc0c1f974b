"""Exact tests by ranks against enumeration and scipy; tests and intervals that can't contradict each other."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qsweep.reports.analysis import ranks
from qsweep.reports.analysis.claims import GAP_SHRINKS, LOSS_GROWS, Margins, Verdict, eight_bits_equal, flatter, trend
from qsweep.reports.analysis.correlation import Resampling, kendall
from qsweep.reports.analysis.kendall import MOST_FACTORIAL, asymptotic_p, count_pairs, exact_p
from qsweep.reports.analysis.measured import Quantity
from qsweep.reports.analysis.pairing import ALPHA, share_interval, shift_of, simultaneous
from qsweep.reports.analysis.ranks import (
    doubled_ranks,
    exceeding,
    hodges_lehmann,
    page,
    signed_rank,
    signed_rank_equivalence,
    signed_rank_interval,
)
from qsweep.reports.quantization import FULL, Quantization

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10, allow_subnormal=False))
SAMPLES = st.lists(VALUES, min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.float64))

INT2, INT8 = Quantization(bits=2), Quantization(bits=8)


def ordered(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def of_sum(total: int, rows: int) -> np.ndarray:
    """Some rows of ranks 1 to 3 with Page's L = total."""
    orders = list(itertools.permutations((1, 2, 3)))
    for some in itertools.combinations_with_replacement(orders, rows):
        if sum(place * rank for row in some for place, rank in enumerate(row, 1)) == total:
            return ordered(*some)
    raise AssertionError


@pytest.mark.parametrize(("total", "p_value"), [(53, 0.0563), (52, None), (54, None), (56, None)])
def test_pages_test_over_four_configurations_is_that_of_the_enumeration(total: int, p_value: float | None) -> None:
    values = of_sum(total, 4)
    found = page(values)
    sums = [np.dot((1, 2, 3), one) for one in itertools.permutations((1, 2, 3))]
    every = np.array([sum(four) for four in itertools.product(sums, repeat=4)])
    assert (found.statistic, found.method) == (total, "exact")
    assert found.p_value == pytest.approx((every >= total).mean(), rel=1e-12)
    assert found.p_value == pytest.approx(stats.page_trend_test(values, method="exact").pvalue, rel=1e-9)
    if p_value is not None:
        assert found.p_value == pytest.approx(p_value, abs=5e-5)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (12, 3), (7, 4), (20, 5), (5, 6)])
def test_pages_test_is_scipys_exact_one(rows: int, columns: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, columns)) + np.arange(columns) / 3
    expected = stats.page_trend_test(values, method="exact")
    assert page(values).p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_pages_published_critical_values() -> None:
    # Page 1963, Table 2, three columns at 5%.
    for rows, critical in ((2, 28), (5, 66), (10, 128)):
        tail = [page(of_sum(critical, rows)).p_value, page(of_sum(critical - 1, rows)).p_value]
        assert tail[0] <= 0.05 < tail[1]


def test_pages_test_with_ties_counts_the_orders_of_the_tied_ranks() -> None:
    values = ordered((0, 0, 1), (0, 1, 1), (2, 1, 3))
    doubled = np.rint(2 * stats.rankdata(values, axis=1))
    every = [
        sum(np.dot((1, 2, 3), row) for row in rows) for rows in itertools.product(*map(itertools.permutations, doubled))
    ]
    found = 2 * page(values).statistic
    assert page(values).p_value == pytest.approx(np.mean(np.array(every) >= found), rel=1e-12)
    assert page(np.zeros((3, 3))).p_value == 1


def test_beyond_the_stated_size_page_is_asymptotic_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(200, 4)) + np.arange(4) / 20
    exact = page(values)
    monkeypatch.setattr(ranks, "PAGE_ROWS", 100)
    asymptotic = page(values)
    assert (exact.method, asymptotic.method) == ("exact", "asymptotic")
    assert asymptotic.p_value == pytest.approx(stats.page_trend_test(values, method="asymptotic").pvalue, rel=1e-9)
    assert asymptotic.p_value == pytest.approx(exact.p_value, rel=0.05)


@pytest.mark.parametrize("count", [2, 3, 6, 9, 12])
def test_the_signed_rank_test_is_that_of_the_enumeration(count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 1, count)
    sizes = stats.rankdata(np.abs(values))
    sums = np.array([sizes[np.array(signs, dtype=bool)].sum() for signs in itertools.product((0, 1), repeat=count)])
    found = sizes[values > 0].sum()
    assert exceeding(values, 0.0) == found
    assert signed_rank(values) == pytest.approx(min(1, 2 * min((sums >= found).mean(), (sums <= found).mean())))
    assert signed_rank(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_with_ties_and_zeros_the_level_holds_over_all_signs(values: list[int]) -> None:
    sizes = np.abs(np.array(values, dtype=np.float64))
    every = np.array([signed_rank(sizes * signs) for signs in itertools.product((-1, 1), repeat=len(sizes))])
    for level in set(every):
        assert (every <= level).mean() <= level + 1e-12


def test_beyond_the_stated_size_the_signed_rank_test_is_asymptotic_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(7).normal(0.1, 1, 300)
    exact, interval = signed_rank(values), signed_rank_interval(values, 0.05)
    monkeypatch.setattr(ranks, "SIGNED_PAIRS", 100)
    assert ranks.signed_rank_method(300) == "asymptotic"
    assert signed_rank(values) == pytest.approx(exact, rel=0.02)
    assert signed_rank_interval(values, 0.05) == pytest.approx(interval, abs=0.005)


@given(SAMPLES, st.floats(-5, 5))
@settings(max_examples=100, deadline=None)
def test_the_estimate_and_the_count_are_those_of_all_means_of_two(values: np.ndarray, shift: float) -> None:
    means = [(values[i] + values[j]) / 2 for i in range(len(values)) for j in range(i, len(values))]
    assert hodges_lehmann(values) == pytest.approx(np.median(means), abs=1e-12)
    assert exceeding(values, 0.0) == sum(mean > 0 for mean in means)
    if min(abs(mean - shift) for mean in means) > 1e-9:
        assert exceeding(values, shift) == sum(mean > shift for mean in means)


@pytest.mark.slow
@given(SAMPLES, st.integers(1, 30), st.floats(0.01, 5))
@settings(max_examples=200, deadline=None)
def test_test_and_interval_never_contradict_each_other(values: np.ndarray, comparisons: int, margin: float) -> None:
    shift = shift_of(values, comparisons=comparisons)
    rejected = shift.p_value is not None and shift.p_value <= ALPHA
    apart = shift.low is not None and shift.high is not None and (shift.low > 0 or shift.high < 0)
    assert rejected == apart
    assert (shift.sign() != 0) == apart
    if shift.low is not None and shift.high is not None:
        assert shift.low <= shift.value <= shift.high
    low, high = signed_rank_interval(values, ALPHA)
    equal = signed_rank_equivalence(values, margin)
    within = low is not None and high is not None and -margin < low and high < margin
    assert within == (equal is not None and equal <= ALPHA)


@pytest.mark.slow
@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_a_claims_verdicts_are_those_of_its_intervals(rows: list[tuple[float, ...]]) -> None:
    frame = pd.DataFrame([(row[0], row[0] + 0.05 * row[1], row[2]) for row in rows], columns=[INT2, INT8, FULL])
    grows = trend(LOSS_GROWS, frame, quantity="train loss", group="g", grows=True)
    shrinks = trend(GAP_SHRINKS, frame, quantity="gap", group="g", grows=False)
    for claim, towards in ((grows, 1), (shrinks, -1)):
        for number in claim.numbers[3:]:
            low, high = number.low or 0, number.high or 0
            side = int(low > 0) - int(high < 0)
            assert (
                number.verdict == {1: Verdict.SUPPORTED, 0: Verdict.UNDECIDED, -1: Verdict.CONTRADICTED}[side * towards]
            )
    equal = eight_bits_equal({"train_loss": frame}, group="g", margins=Margins())
    (step,) = (number for number in grows.numbers if number.label.endswith("Int8 − FP32"))
    (same,) = equal.numbers
    if same.verdict is Verdict.SUPPORTED and step.verdict is not Verdict.UNDECIDED:
        assert "differs, but by less than the margin" in same.note
        assert "differ from FP32, but by less than the margin" in equal.reason
    if same.verdict is Verdict.CONTRADICTED:
        assert same.low is not None
        assert same.high is not None
        assert same.low > 0 or same.high < 0


def test_the_readmes_four_configurations_are_undecided() -> None:
    values = pd.DataFrame(of_sum(53, 4), columns=[FULL, Quantization(bits=3), INT2])
    claim = trend(LOSS_GROWS, values, quantity="train loss", group="g", grows=True)
    assert claim.verdict is Verdict.UNDECIDED
    assert claim.reason == "Page's L = 53 over 4 matched configurations, p = 0.056 (exact)."
    assert claim.p_value == pytest.approx(0.0563, abs=5e-5)
    assert claim.method == "exact Page's L"


def test_differences_run_as_the_claims_words_do() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(0, 0.01, 20)
    table = pd.DataFrame(
        {Quantization(bits=bits): base + draw.normal(0, 0.001, 20) - bits / 100 for bits in (2, 4, 8, 32)}
    )
    claim = trend(LOSS_GROWS, table, quantity="train loss", group="g", grows=True)
    assert claim.verdict is Verdict.SUPPORTED
    assert [number.label for number in claim.numbers[4:]] == [
        "train loss: Int8 − FP32",
        "train loss: Int4 − Int8",
        "train loss: Int2 − Int4",
    ]
    assert all(number.value > 0 and number.verdict is Verdict.SUPPORTED for number in claim.numbers[4:])
    assert trend(GAP_SHRINKS, table, quantity="gap", group="g", grows=False).verdict is Verdict.CONTRADICTED


def test_many_comparisons_are_judged_at_once() -> None:
    samples = [np.arange(1.0, 9.0)] * 10  # p = 2/256 of each
    assert [one.p_value for one in simultaneous(samples)] == [pytest.approx(20 / 256)] * 10
    assert {one.low for one in simultaneous(samples)} == {None}
    assert simultaneous(samples[:1])[0].low is not None
    jobs = [f"{place}-{bits}" for place in range(8) for bits in (2, 32)]
    values = pd.Series([place + (0.0 if job.endswith("-2") else 1.0) for place, job in enumerate(jobs)], index=jobs)
    called = pd.Series([Quantization(bits=int(job.partition("-")[2])) for job in jobs], index=jobs, dtype=object)
    places = pd.Series([job.partition("-")[0] for job in jobs], index=jobs)
    quantity = Quantity(name="pac_init", convention="", values=values, saturated=values > 1e9)
    claim = flatter([quantity], called, places, group="g")
    assert claim.verdict is Verdict.SUPPORTED
    assert claim.numbers[0].high is not None
    assert claim.numbers[0].high < 0


def test_kendalls_p_value_with_ties_is_that_of_all_orders() -> None:
    left, right = pd.Series([1.0, 1, 2, 3, 3, 4]), pd.Series([1.0, 2, 2, 5, 4, 6])
    found = kendall(left, right)
    every = [stats.kendalltau(left, one).statistic for one in itertools.permutations(right)]
    assert found.p_value == pytest.approx(np.mean(np.abs(every) >= found.tau - 1e-12), rel=1e-12)
    assert found.method == "exact"
    more = kendall(pd.concat([left, left + 10]), pd.concat([right, -right]), Resampling(resamples=999, seed=1))
    again = kendall(pd.concat([left, left + 10]), pd.concat([right, -right]), Resampling(resamples=999, seed=1))
    assert more == again
    assert more.method == "permutations"
    untied = pd.Series(np.random.default_rng(0).random(60))
    assert kendall(untied, untied**2 + untied.sample(frac=1, random_state=0).to_numpy()).method == "exact"
    many = pd.Series(np.arange(100) % 7, dtype=float)
    assert kendall(many, pd.Series(np.arange(100.0))).method == "asymptotic"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=30))
def test_tau_and_its_p_value_are_scipys_whatever_the_ties(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array(one, dtype=np.float64) for one in zip(*pairs, strict=True))
    if len(set(left)) < 2 or len(set(right)) < 2:
        return
    counted = count_pairs(left.tolist(), right.tolist())
    expected = stats.kendalltau(left, right, method="asymptotic")
    assert (counted.tau(), asymptotic_p(counted)) == (expected.statistic, expected.pvalue)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12, 33, 150, MOST_FACTORIAL])
def test_the_exact_p_value_of_tau_is_scipys(count: int) -> None:
    for seed in range(4):
        left = np.random.default_rng(seed).normal(size=count)
        for right in (left, -left, np.random.default_rng(seed + 9).normal(size=count) + seed * left):
            counted = count_pairs(left.tolist(), right.tolist())
            assert exact_p(counted) == stats.kendalltau(left, right, method="exact").pvalue


def test_the_exact_p_value_of_tau_is_that_of_all_orders() -> None:
    scores = [abs(count_pairs(range(5), order).difference) for order in itertools.permutations(range(5))]
    for order in itertools.permutations(range(5)):
        counted = count_pairs(range(5), order)
        assert exact_p(counted) == pytest.approx(np.mean(np.array(scores) >= abs(counted.difference)), rel=1e-12)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6))
def test_doubled_ranks_are_twice_scipys_mid_ranks(rows: list[list[int]]) -> None:
    values = np.array(rows, dtype=np.float64)
    assert (doubled_ranks(values) == 2 * stats.rankdata(values, axis=1)).all()


@pytest.mark.parametrize(("wins", "count"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (243, 324)])
def test_the_interval_of_a_share_is_that_of_clopper_and_pearson(wins: int, count: int) -> None:
    expected = stats.binomtest(wins, count).proportion_ci(0.95, method="exact")
    assert share_interval(wins, count, 0.05) == pytest.approx((expected.low, expected.high), rel=1e-9)
