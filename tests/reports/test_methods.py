"""Claims about sharpness-aware methods, and whether quantization flattens: over made-up results with known effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from qsweep.reports.analysis.analysis import Options
from qsweep.reports.analysis.claims import Claim, Verdict
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.analysis.methods import decidable
from qsweep.reports.analysis.pairing import ALPHA
from qsweep.reports.analysis.ranks import signed_rank
from qsweep.reports.analysis.text import render_analysis
from qsweep.reports.answers import make_tables
from qsweep.reports.evidence import Evidence, gather
from qsweep.reports.page.page import render_page
from qsweep.sweeps.operations import bit_operations
from tests.reports.drawn import MadeSource, made_source

SEEDS = "seed=[0,1,2,3,4,5]"
EFFECTS = {None: 0, "sam": 1, "saq1": 2, "saq3": 3}
"""How many steps of an effect a method makes: plain training has no method in its rows."""


def source(*changes: str, **more: Any) -> MadeSource:
    """digits-saq, whose rows have effects by method and radius that are larger than the noise."""
    found = made_source("digits-saq", changes=changes, **more)
    for row in found.rows["runs"]:
        steps, rho = EFFECTS[row.get("method")], row.get("rho") or 0.0
        row["train_loss"] += 0.2 * rho
        row["generalization_gap"] -= 0.02 * steps
        row["test_accuracy"] += 0.02 * steps
    for row in found.rows["measures"]:
        for name in ("value_init", "value_orig", "flatness"):
            row[name] = 100 + row[name] - 20 * EFFECTS[row.get("method")]
    return found


def claims(given: MadeSource) -> dict[str, Claim]:
    return {one.name: one for one in evidence_of(given).analysis.claims if one.where == "SAQ"}


def evidence_of(given: MadeSource) -> Evidence:
    return gather(given, Options(resampling=Resampling(resamples=20)))


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return evidence_of(source())


def test_effects_that_are_there_are_found(evidence: Evidence) -> None:
    found = {one.name: one for one in evidence.analysis.claims if one.where == "SAQ"}
    assert {one.verdict for one in found.values()} == {Verdict.SUPPORTED}
    assert list(found) == [
        "train-loss-rises-with-rho", "sharpness-aware-narrows-gap", "sharpness-aware-is-flatter",
        "saq-over-sam-over-plain",
    ]  # fmt: skip
    gap = {one.label: one.value for one in found["sharpness-aware-narrows-gap"].numbers}
    assert gap["gap: SAM ρ 0.05 − plain"] == pytest.approx(-0.02, abs=0.004)
    assert gap["gap: SAQ3 ρ 0.2 − plain"] == pytest.approx(-0.06, abs=0.004)
    order = {one.label: one for one in found["saq-over-sam-over-plain"].numbers}
    assert list(order) == [
        *(f"test accuracy: SAM ρ {rho} − plain" for rho in (0.05, 0.2)),
        *(f"test accuracy: {saq} ρ {rho} − SAM ρ {rho}" for saq in ("SAQ1", "SAQ3") for rho in (0.05, 0.2)),
    ]
    assert order["test accuracy: SAM ρ 0.2 − plain"].note == "higher in 18 of 18"  # three widths, six seeds
    assert order["test accuracy: SAQ3 ρ 0.2 − SAM ρ 0.2"].note == "higher in 12 of 12"  # in full precision it is SAM


def test_pairs_differ_in_the_method_alone(evidence: Evidence) -> None:
    """By an independent computation over the rows."""
    rows = evidence.runs.to_dict("records")
    plain = {(one["bits"], one["seed"]): one["generalization_gap"] for one in rows if pd.isna(one["method"])}
    sam = [one for one in rows if one["method"] == "sam" and one["rho"] == 0.2]
    differences = [one["generalization_gap"] - plain[one["bits"], one["seed"]] for one in sam]
    (claim,) = (one for one in evidence.analysis.claims if one.name == "sharpness-aware-narrows-gap")
    (number,) = (one for one in claim.numbers if one.label == "gap: SAM ρ 0.2 − plain")
    assert len(differences) == 18
    assert number.p_value == pytest.approx(min(1.0, len(claim.numbers) * (signed_rank(np.array(differences)) or 0.0)))


def test_the_opposite_is_contradicted_and_no_effect_is_undecided() -> None:
    turned = source()
    for row in turned.rows["runs"]:
        row["generalization_gap"] += 0.08 * EFFECTS[row.get("method")]
        row["test_accuracy"] = 0.9
    found = claims(turned)
    assert found["sharpness-aware-narrows-gap"].verdict is Verdict.CONTRADICTED
    assert found["saq-over-sam-over-plain"].verdict is Verdict.UNDECIDED


def test_too_few_seeds_decide_nothing_and_it_is_said() -> None:
    few = source("seed=[0,1]", "bits=[32,4]")
    analysis = evidence_of(few).analysis
    found = {one.name: one for one in analysis.claims if one.where == "SAQ"}
    for name in ("sharpness-aware-narrows-gap", "saq-over-sam-over-plain"):
        assert found[name].verdict is Verdict.UNDECIDED
        assert "None can be decided by so few pairs (2 to 4 each)" in found[name].reason
    assert found["sharpness-aware-is-flatter"].verdict is Verdict.UNDECIDED
    (answer,) = analysis.flat_or_sharp
    assert {marks.strip("*") for *_, all_ in answer.by_search() for marks in all_} == {"???"}


@pytest.mark.parametrize("pairs", range(2, 9))
@pytest.mark.parametrize("comparisons", [1, 3])
def test_what_is_decidable_is_what_the_test_can_find(pairs: int, comparisons: int) -> None:
    all_one_way = signed_rank(np.arange(1.0, pairs + 1))
    assert all_one_way is not None
    assert decidable(pairs, comparisons) == (comparisons * all_one_way <= ALPHA)


def test_the_question_of_qgen_is_answered_for_each_convention(evidence: Evidence) -> None:
    (answer,) = evidence.analysis.flat_or_sharp
    assert answer.quantization == ("W4A4 − FP32", "W2A2 − FP32")
    assert answer.methods == tuple(f"{name} ρ {rho} − plain" for name in ("SAM", "SAQ1", "SAQ3") for rho in (0.05, 0.2))
    assert len(answer.rows) == 4 * 3  # conventions, and three quantities of each
    for row in answer.rows:
        assert {row.cells[name].sign for name in answer.quantization} == {-1}  # the made-up values fall by 1 there
        assert all(row.cells[name].flatter == 12 and row.cells[name].shift.pairs == 12 for name in answer.methods)
    first, second = answer.answers()
    assert (first.question, first.verdict) == ("Does quantization flatten?", "Yes, under every convention.")
    assert first.details[0] == "W4A4 − FP32: flatter under 12 of 12 measures and conventions, sharper under 0"
    assert second.question == "Does sharpness-aware training flatten beyond that?"
    assert second.verdict == "Yes, under every convention."


def sharper(row: dict[str, Any]) -> None:
    if row["perturb"] == "quantized" and row["bits"] != 32:
        for name in ("value_init", "value_orig", "flatness"):
            row[name] += 100


def test_an_answer_that_depends_on_the_convention_says_so() -> None:
    given = source()
    for row in given.rows["measures"]:
        sharper(row)
    (answer,) = evidence_of(given).analysis.flat_or_sharp
    signs = {one.label: one.cells["W2A2 − FP32"].sign for one in answer.rows}
    assert set(signs.values()) == {-1, 1}
    assert all((sign > 0) == ("quantized" in label) for label, sign in signs.items())
    assert answer.answers()[0].verdict == "It depends on the convention."
    marks = {
        (search, convention): dict(zip(answer.names, all_, strict=True))
        for search, convention, all_ in answer.by_search()
    }
    assert {one["W4A4 − FP32"] for (_, convention), one in marks.items() if "quantized" in convention} == {"↑↑↑"}
    assert {one["W4A4 − FP32"] for (_, convention), one in marks.items() if "latent" in convention} == {"↓↓↓"}
    assert [search for search, _ in marks] == ["PAC-Bayes"] * 2 + ["PAC-Bayes magn."] * 2
    assert "W4A4 − FP32: flatter under 6 of 12 measures and conventions, sharper under 6" in answer.answers()[0].details


def test_the_report_opens_with_the_answer_and_analyze_has_it(evidence: Evidence) -> None:
    page, text = render_page(evidence), render_analysis(evidence.analysis)
    assert page.index('id="answer"') < page.index('id="claims"') < page.index('id="tables"')
    assert "Does quantization flatten? Yes, under every convention." in page
    assert "flatter (12 of 12)" in page
    assert Verdict.NO_DATA not in {one.verdict for one in evidence.analysis.claims}  # no variant has 8 bits
    assert text.index("## Flat or sharp?") < text.index("↓↓↓") < text.index("## The paper's claims")


@pytest.mark.parametrize("name", ["digits-grid", "digits-flatness"])
def test_sweeps_of_plain_training_say_nothing_of_methods(name: str) -> None:
    evidence = evidence_of(made_source(name, where="weight_decay == 0" if name == "digits-grid" else None))
    assert not [one for one in evidence.analysis.claims if one.where == "SAQ"]
    assert not evidence.analysis.flat_or_sharp
    assert 'id="answer"' not in render_page(evidence)


def test_the_table_has_bit_operations_also_of_rows_that_are_older_than_the_column() -> None:
    given = source()
    wanted = {str(one.training.bits): bit_operations(one.training) for one in given.spec.trainings()}
    table = make_tables(given, "saq")[0]
    place = table.declaration.rows.index("bits")
    assert len(table.rows) == (1 + 2) + 2 * (1 + 3 * 2)  # in full precision there is no SAQ
    for row in table.rows:
        assert row.cells[0].mean == pytest.approx(wanted[row.keys[place]] / 1e6)
        assert row.counted == 6
