"""Correlations, paired comparisons and verdicts against slow, obvious computations and cases done by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qsweep.reports.analysis.analysis import Options, analyze, finite_runs, group_models
from qsweep.reports.analysis.claims import GAP_SHRINKS, Margins, Verdict, eight_bits_equal, trend
from qsweep.reports.analysis.coordinates import hyperparameters, place_in_grid
from qsweep.reports.analysis.correlation import (
    Environment,
    Resampling,
    granulate,
    hoeffding_weight,
    kendall,
    lines_of,
    sign_errors,
)
from qsweep.reports.analysis.pairing import adjust, compare, holm, matched
from qsweep.reports.analysis.text import analysis_content, render_analysis
from qsweep.reports.evidence import gather
from qsweep.reports.quantization import FULL, Quantization
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.spec import Axis
from tests.reports.drawn import made_source

QUICK = Resampling(resamples=100)


def by_bits(columns: Mapping[int, Any]) -> pd.DataFrame:
    """A table with a column for each bit width."""
    return pd.DataFrame({Quantization(bits=bits): values for bits, values in columns.items()})


def grid_of(widths: int, depths: int) -> pd.DataFrame:
    return pd.DataFrame(list(itertools.product(range(widths), range(depths))), columns=["width", "depth"])


def test_tau_is_the_share_of_pairs_in_order_minus_the_share_out_of_order() -> None:
    draw = np.random.default_rng(0)
    left, right = pd.Series(draw.random(30)), pd.Series(draw.random(30))
    pairs = list(itertools.combinations(range(30), 2))
    signs = [math.copysign(1, (left[i] - left[j]) * (right[i] - right[j])) for i, j in pairs]
    found = kendall(left, right)
    assert found.tau == pytest.approx(sum(signs) / len(pairs), abs=1e-12)
    assert found.p_value == stats.kendalltau(left, right).pvalue
    assert found.models == 30


def test_a_constant_quantity_has_no_tau_and_missing_models_are_left_out() -> None:
    gap = pd.Series([0.1, 0.2, 0.3])
    assert kendall(pd.Series([1.0, 1.0, 1.0]), gap).tau is None
    assert kendall(pd.Series([1.0, np.nan, 3.0]), gap).models == 2


def test_the_granulated_coefficient_of_a_case_done_by_hand() -> None:
    grid = grid_of(3, 2)
    gap = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0, 1.0])
    measure = pd.Series([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])  # is the width
    # Along width: depth 0 has gaps 1 2 3 (τ = 1), depth 1 has 2 3 1: pairs +, −, − (τ = −1/3). Mean 1/3.
    # Along depth the measure does not change: every pair is a tie, which counts zero.
    found = granulate(measure, gap, lines_of(grid, ["width", "depth"]))
    assert found.by_hyperparameter == {"width": pytest.approx(1 / 3), "depth": 0.0}
    assert found.overall == pytest.approx(1 / 6)


def test_the_sign_error_of_a_case_done_by_hand() -> None:
    gap = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0, 1.0])
    measure = pd.Series([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    found = sign_errors(measure, gap, lines_of(grid_of(3, 2), ["width", "depth"]))
    assert found[:3] == [
        Environment(hyperparameter="width", low=0, high=1, error=0.0, pairs=2, effective=2.0),
        Environment(hyperparameter="width", low=0, high=2, error=0.5, pairs=2, effective=2.0),
        Environment(hyperparameter="width", low=1, high=2, error=0.5, pairs=2, effective=2.0),
    ]
    assert [(one.error, one.pairs) for one in found[3:]] == [(0.5, 3)]  # ties are neither right nor wrong


def test_sign_errors_and_psi_agree_with_a_loop_over_all_pairs_where_models_are_missing() -> None:
    draw = np.random.default_rng(5)
    grid = pd.DataFrame(list(itertools.product(range(3), range(3), range(2))), columns=["a", "b", "c"])
    grid = grid.drop(index=[2, 7, 11]).reset_index(drop=True)
    quantity, gap = pd.Series(draw.random(len(grid))), pd.Series(draw.random(len(grid)))
    quantity[4] = np.nan
    for images in (None, 20):
        found = {(one.hyperparameter, one.low, one.high): one for one in sign_errors(
            quantity, gap, lines_of(grid, ["a", "b", "c"]), test_images=images)}  # fmt: skip
        slow: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
        for i, j in itertools.permutations(range(len(grid)), 2):
            differs = [name for name in grid if grid[name][i] != grid[name][j]]
            if len(differs) == 1 and grid[differs[0]][i] < grid[differs[0]][j] and 4 not in (i, j):
                wrong = (1 - np.sign(quantity[j] - quantity[i]) * np.sign(gap[j] - gap[i])) / 2
                weight = 1.0
                if images is not None:
                    weight = max(max(0, 1 - 2 * math.exp(-images * (gap[j] - gap[i]) ** 2 / 2)) ** 2 - 0.5, 0)
                key = (differs[0], int(grid[differs[0]][i]), int(grid[differs[0]][j]))
                slow.setdefault(key, []).append((wrong, weight))
        kept = {key: rows for key, rows in slow.items() if sum(weight for _, weight in rows)}
        assert found.keys() == kept.keys()
        for key, rows in kept.items():
            mean = sum(wrong * weight for wrong, weight in rows) / sum(weight for _, weight in rows)
            assert found[key].error == pytest.approx(mean, abs=1e-12)


def test_two_gaps_that_chance_may_tell_apart_have_no_weight() -> None:
    # Of 10,000 images: 0.02 leaves 1 − 2e⁻² = 0.73, squared 0.53; 0.01 leaves nothing.
    assert hoeffding_weight(np.array([0.01, 0.02]), 10_000) == pytest.approx([0, (1 - 2 * math.exp(-2)) ** 2 - 0.5])


def test_a_learning_rate_is_placed_among_those_of_its_optimizer() -> None:
    spec = read_sweep("digits-grid")
    runs = pd.DataFrame([job.settings() for job in spec.jobs()])
    grid = place_in_grid(runs, spec.axes)
    highest = runs[grid["learning_rate"] == 2]
    assert dict(zip(highest["optimizer"], highest["learning_rate"], strict=True)) == {
        "sgd": 0.01,
        "adam": 0.01,
        "rmsprop": 0.001,
    }
    assert len(grid.drop_duplicates()) == 972
    assert set(hyperparameters(spec.axes)) == set(grid.columns)
    assert grid["bits"][runs["bits"] == 32].eq(3).all()


def pairs(count: int = 40, *, shift: float = -0.02) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    full = draw.normal(0.3, 0.1, count)
    return by_bits({8: full + draw.normal(0, 1e-4, count), 2: full + shift + draw.normal(0, 0.01, count), 32: full})


def test_a_value_that_an_axis_does_not_name_stands_behind_those_that_it_names() -> None:
    """In full precision `saq3` is stored as `sam`."""
    runs = pd.DataFrame({"method": [None, "saq3", "sam"]})
    grid = place_in_grid(runs, [Axis(name="method", values=("plain", "saq3"))])
    assert grid["method"].tolist() == [0, 1, 2]


def test_a_paired_difference_is_that_of_the_matched_configurations() -> None:
    table = pairs()
    eight, two = adjust(compare(table, "generalization_gap", -1), {"generalization_gap": table})
    assert (str(eight.precision), str(two.precision), two.pairs) == ("Int8", "Int2", 40)
    difference = table[Quantization(bits=2)] - table[FULL]
    assert two.difference == pytest.approx(difference.mean(), abs=difference.sem())
    assert two.wilcoxon_p == pytest.approx(stats.wilcoxon(difference, method="exact").pvalue, rel=1e-9)
    assert two.adjusted_p == pytest.approx(2 * two.wilcoxon_p)
    assert two.method == "exact signed-rank"
    assert two.improved == (difference < 0).mean()
    assert two.low is not None
    assert two.high is not None
    assert two.low < two.difference < two.high < 0
    # about the interval of a normal mean, for two comparisons at once
    assert two.high - two.low == pytest.approx(2 * 2.24 * difference.sem(), rel=0.2)


def test_one_matched_configuration_has_a_difference_and_no_test() -> None:
    (_, two) = compare(pairs(1), "train_loss", -1)
    assert two.difference == pytest.approx(-0.02, abs=0.05)
    assert (two.low, two.high, two.wilcoxon_p) == (None, None, None)


def test_repeats_of_a_configuration_are_averaged_and_incomplete_ones_left_out() -> None:
    called = pd.Series([Quantization(bits=bits) for bits in (32, 32, 2, 2)], dtype=object)
    table = matched(pd.Series([1.0, 3.0, 5.0, 7.0]), called, pd.Series(["one", "one", "one", "other"]))
    (found,) = compare(table, "train_loss", -1)
    assert (found.pairs, found.reference, found.difference) == (1, 2.0, 3.0)


def test_holm_adjusts_what_there_is() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([None]) == [None]


def test_a_trend_is_supported_contradicted_or_undecided() -> None:
    draw = np.random.default_rng(4)
    noise = by_bits({bits: draw.normal(0, 1, 30) for bits in (2, 4, 8, 32)})
    rising = noise.add([0, 1, 2, 3])
    options = {"quantity": "gap", "group": "g", "grows": False}
    assert trend(GAP_SHRINKS, rising, **options).verdict is Verdict.SUPPORTED
    assert trend(GAP_SHRINKS, -rising, **options).verdict is Verdict.CONTRADICTED
    assert trend(GAP_SHRINKS, noise, **options).verdict is Verdict.UNDECIDED
    crossed = (noise / 10).add([0, 4, 3, 6])
    partly = trend(GAP_SHRINKS, crossed, **options)
    assert partly.verdict is Verdict.PARTLY
    assert "against the order: Int4 − Int8" in partly.reason
    single = trend(GAP_SHRINKS, rising.iloc[:1], **options)
    assert single.verdict is Verdict.UNDECIDED
    assert "no test" in single.reason
    assert trend(GAP_SHRINKS, rising[[FULL]], **options).verdict is Verdict.NO_DATA


def test_no_significant_difference_is_not_yet_equality() -> None:
    few = by_bits({8: [0.30, 0.45, 0.38], 32: [0.35, 0.40, 0.40]})
    assert eight_bits_equal({"train_loss": few}, group="g", margins=Margins()).verdict is (Verdict.UNDECIDED)
    two, eight = Quantization(bits=2), Quantization(bits=8)
    many = pairs(40)[[eight, FULL]]
    equal = eight_bits_equal({"train_loss": many}, group="g", margins=Margins())
    assert equal.verdict is Verdict.SUPPORTED
    apart = pairs(40, shift=-0.1)[[two, FULL]].rename(columns={two: eight})
    found = eight_bits_equal({"train_loss": apart}, group="g", margins=Margins())
    assert found.verdict is Verdict.CONTRADICTED


def analysis_of(order: int | None = None, name: str = "digits-grid", where: str | None = None) -> str:
    evidence = gather(made_source(name, where=where, order=order), Options(resampling=QUICK))
    return render_analysis(evidence.analysis)


def test_the_analysis_of_a_sweep_finds_what_was_put_into_it() -> None:
    evidence = gather(made_source(where="depth == 2"), Options(resampling=QUICK))
    verdicts = {claim.name: claim.verdict for claim in evidence.analysis.claims}
    assert verdicts == {
        "gap-shrinks": Verdict.SUPPORTED,
        "train-loss-grows": Verdict.SUPPORTED,
        "int8-equals-fp32": Verdict.CONTRADICTED,
        "quantized-is-flatter": Verdict.NO_DATA,
        "step-size-grows": Verdict.SUPPORTED,
    }
    bits = next(one for one in evidence.analysis.associations if one.name == "bits")
    assert bits.kendall.tau is not None
    assert bits.kendall.tau > 0.7
    assert bits.granulated.by_hyperparameter["bits"] == pytest.approx(bits.granulated.overall)
    gap = evidence.runs.set_index("job")["generalization_gap"]
    grouped = next(iter(group_models(evidence.spec, finite_runs(evidence.runs))))
    found = next(one for one in evidence.analysis.associations if one.name == "weight_norm")
    norms = evidence.runs.set_index("job")["weight_norm"]
    assert found.kendall.tau == stats.kendalltau(norms.loc[grouped.runs.index], gap.loc[grouped.runs.index]).statistic


def test_flatness_is_compared_by_measure_convention_and_precision() -> None:
    evidence = gather(made_source("digits-flatness"), Options(resampling=QUICK))
    claim = next(one for one in evidence.analysis.claims if one.name == "quantized-is-flatter")
    assert claim.verdict is Verdict.UNDECIDED
    # 12 PAC-Bayes and 2 sharpness searches, 3 quantities each, 3 precisions; every one lower by construction
    assert len(claim.numbers) == 14 * 3 * 3
    assert all(number.value < 0 for number in claim.numbers)
    assert "Lower than FP32 in 126 of 126" in claim.reason


@pytest.mark.slow
def test_the_text_is_the_same_for_any_order_of_the_rows_and_the_json_is_finite() -> None:
    where = "depth == 2 and width == 8"
    assert analysis_of(where=where) == analysis_of(order=9, where=where)
    evidence = gather(made_source(where=where), Options(resampling=QUICK))
    content = json.loads(json.dumps(analysis_content(evidence.analysis), allow_nan=False))
    assert content["done"] == 108
    assert content["comparisons"][0]["group"] == "Digits NiN"


def test_a_diverged_model_is_counted_and_left_out() -> None:
    source = made_source(where="depth == 2 and width == 8")
    source.rows["runs"][0]["diverged"] = True
    evidence = gather(source, Options(resampling=QUICK))
    assert evidence.analysis.left_out == 1
    assert "1 of them diverged" in render_analysis(evidence.analysis)


def test_a_sweep_without_results_has_an_empty_analysis() -> None:
    evidence = gather(made_source(done=0))
    found = analyze(evidence.title, evidence.spec, evidence.runs, evidence.measures, evidence.layers)
    assert (found.done, found.claims, found.associations) == (0, (), ())
    assert "0 of 972 models" in render_analysis(found)


def test_a_claim_about_a_part_of_a_sweep_says_so() -> None:
    whole = gather(made_source(where="depth == 2 and width == 8"), Options(resampling=QUICK)).analysis
    evidence = gather(made_source(done=132), Options(resampling=QUICK))
    assert {claim.note for claim in evidence.analysis.claims} == {"partial: 132 of 972 models, not a random part"}
    assert "Partial: 132 of 972 models, not a random part." in render_analysis(evidence.analysis)
    content = analysis_content(evidence.analysis)
    assert content["claims"][0]["note"] == "partial: 132 of 972 models, not a random part"
    assert "exact" in content["claims"][0]["method"]
    assert whole.done == 108
