"""The review of the paper's tables: what it finds, what it never finds in true rows, and where doubts are marked."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

from qsweep.reports.declaration import declared_tables
from qsweep.reports.render import DOUBTED, Format, Layout, render
from qsweep.reports.review import Strength, contradictions, doubted_cells, review, review_content, review_parts
from qsweep.reports.table import Cell, Row, Table, with_doubts
from qsweep.workers.measures.bounds import pac_bayes, pac_bayes_magnitude, sharpness, sharpness_magnitude

IMAGENET = "ImageNet-1K"


def test_six_rows_of_table_3_contradict_themselves_without_any_norm() -> None:
    """The numbers are those of an independent computation without the logarithms, to its three digits."""
    found = {one.keys: one.numbers for one in review() if "pac_ratio" in one.numbers}
    expected = {
        (IMAGENET, "DeiT-T", "FP32"): (1.135, 1.080),
        (IMAGENET, "DeiT-T", "Int8"): (0.942, 2.109),
        (IMAGENET, "DeiT-T", "Int4"): (1.109, 1.609),
        (IMAGENET, "DeiT-T", "Int2"): (1.905, 1.654),
        ("CIFAR-100", "ResNet-18", "Int2"): ((3.704 / 3.443) ** 2, (27.983 / 27.247) ** 2),
        ("CIFAR-100", "ResNet-50", "Int2"): ((29.727 / 29.531) ** 2, (37.893 / 38.124) ** 2),
    }
    assert found.keys() == expected.keys()
    for keys, (pac, sharp) in expected.items():
        assert found[keys]["pac_ratio"] == pytest.approx(pac, abs=2e-3)
        assert found[keys]["sharp_ratio"] == pytest.approx(sharp, abs=2e-3)


def test_deit_implies_impossible_numbers_of_weights() -> None:
    implied = [one.numbers["implied"] for one in review() if one.keys[1] == "DeiT-T" and "implied" in one.numbers]
    assert implied == pytest.approx([1708, 1403, -1597, -224, 2422, -1344, 213, -863], abs=1)
    true = {one.numbers.get("weights_per_image") for one in review() if one.keys[1] == "DeiT-T"} - {None}
    assert true == {56.47872}


def test_what_a_reader_types_gives_what_a_finding_says() -> None:
    """The quotients and bounds that the texts write out, computed as they stand there."""
    texts = " ".join(one.text for one in review() if one.strength is Strength.IDENTITY)
    quotients = re.findall(r"\(([\d.]+)/([\d.]+)\)² ≈ ([\d.]+\d)", texts)
    assert len(quotients) == 12
    for init, orig, said in quotients:
        assert (float(init) / float(orig)) ** 2 == pytest.approx(float(said), abs=0.001)
    bounds = re.findall(r"4·\(([\d.]+)² − ([\d.]+)²\)/ln ([\d.]+) ≈ (\S+)", texts)
    assert len(bounds) >= 8
    for init, orig, ratio, said in bounds:
        found = 4 * (float(init) ** 2 - float(orig) ** 2) / math.log(float(ratio))
        assert found == pytest.approx(float(said.replace("−", "-").replace(",", "")), rel=0.02, abs=0.1)


def test_the_review_opens_with_the_rows_that_are_in_doubt() -> None:
    opening = " ".join(str(one) for one in review_parts()[:6] if isinstance(one, str))
    assert "Table 1: 12 of 20 rows hold values in doubt" in opening
    assert "ImageNet-1K DeiT-T (4 of 4)" in opening
    assert "CIFAR-10 NiN (4x12) (2 of 4)" in opening
    assert len({one.keys for one in review() if one.doubt and one.table == 1}) == 12


def test_rows_that_do_follow_the_formulas_are_never_found() -> None:
    """Rows made by the float64 bounds themselves, of random weights, and rounded as the paper rounds."""
    draw = torch.Generator().manual_seed(5)
    images, delta = 50_000, 0.01
    for number in range(60):
        omega = int(torch.randint(20_000, 60_000, (), generator=draw))
        spread, start = torch.rand(2, generator=draw, dtype=torch.float64).mul(0.3).add(0.05).tolist()
        weights = spread * torch.randn(omega, generator=draw, dtype=torch.float64)
        away = weights - start * torch.randn(omega, generator=draw, dtype=torch.float64)
        sigma, alpha = torch.rand(2, generator=draw, dtype=torch.float64).mul(0.2).add(0.01).tolist()
        values = {}
        for end, square in (("init", float(away.square().sum())), ("orig", float(weights.square().sum()))):
            values |= {
                f"pac_{end}": pac_bayes(square, sigma, images),
                f"sharp_{end}": sharpness(square, alpha, omega, images),
                f"pac_mag_{end}": pac_bayes_magnitude(square, away.square(), sigma, images),
                f"sharp_mag_{end}": sharpness_magnitude(square, away.square(), alpha, images, delta=delta),
            }
        printed = {name: round(value, 3) for name, value in values.items()}
        found = list(contradictions(("made", "up", str(number)), printed, omega=omega, images=images))
        assert not found, (found, printed)


def test_a_changed_digit_is_found() -> None:
    keys = ("a", "b", "c")
    row = {"pac_init": 4.204, "pac_orig": 3.626, "sharp_init": 0.292, "sharp_orig": 0.252}
    row |= {"pac_mag_init": 6.435, "pac_mag_orig": 6.176, "sharp_mag_init": 6.853, "sharp_mag_orig": 6.610}
    assert not list(contradictions(keys, row, omega=2_196_750, images=50_000))
    for column in ("pac_init", "sharp_mag_orig"):
        changed = list(
            contradictions(("a", "b", "c"), row | {column: row[column] + 0.1}, omega=2_196_750, images=50_000)
        )
        assert {one.strength for one in changed} == {Strength.IDENTITY}
        assert all(column in one.columns for one in changed)


def test_deit_at_4_bits_is_vvtqs_log_with_the_columns_exchanged() -> None:
    found = [one for one in review() if one.keys == (IMAGENET, "DeiT-T", "Int4") and one.strength is Strength.MATCH]
    assert {one.columns[0]: one.numbers["published"] for one in found} == {
        "train_acc": 74.71,
        "test_acc": 72.31,
        "test_loss": 2.0711,
    }
    assert all(one.doubt for one in found)


def test_a_value_in_the_right_column_is_named_without_a_doubt() -> None:
    found = [one for one in review() if one.keys == (IMAGENET, "Swin-T", "Int2") and "published" in one.numbers]
    assert [(one.columns, one.strength, one.doubt) for one in found] == [(("test_acc",), Strength.MATCH, False)]
    assert ((IMAGENET, "Swin-T", "Int2"), "test_acc") not in doubted_cells("table1.csv")
    assert ((IMAGENET, "Swin-T", "Int2"), "test_loss") in doubted_cells("table1.csv")


def test_saqs_values_have_one_digit_less_and_are_a_suspicion() -> None:
    found = [one for one in review() if one.keys[1] == "ResNet-18" and one.table == 1 and "published" in one.numbers]
    assert [(one.keys[2], one.columns[0], one.strength) for one in found] == [
        ("Int4", "train_acc", Strength.SUSPICION),
        ("Int2", "train_acc", Strength.SUSPICION),
    ]


def test_the_cifar_rows_of_table_1_stand() -> None:
    assert {one.keys[0] for one in review() if one.table == 1} == {IMAGENET}


def test_the_content_is_json_with_every_number() -> None:
    content = json.loads(json.dumps(review_content(), allow_nan=False))
    assert len(content["findings"]) == len(review())
    assert len(content["implied"]) == 40
    assert all(math.isfinite(value) for one in content["findings"] for value in one["numbers"].values())


def _table(keys: tuple[str, str, str], *, compared_with: str | None = None) -> Table:
    declaration = declared_tables()["table1"]
    cells = tuple(Cell(mean=1.0, error=None, count=1, paper=2.0) for _ in declaration.columns)
    row = Row(keys=keys, cells=cells, expected=1, done=1, diverged=())
    return with_doubts(Table(declaration=declaration, heading="made", rows=(row,), compared_with=compared_with))


@pytest.mark.parametrize("form", [Format.MARKDOWN, Format.LATEX, Format.HTML])
def test_doubted_cells_are_marked_beside_the_papers_values_alone(form: Format) -> None:
    table = _table((IMAGENET, "DeiT-T", "Int4"))
    text = render(table, form, Layout(against_paper=True))
    assert text.count("2.00" + DOUBTED) + text.count("2.000" + DOUBTED) == 5
    assert "qsweep analyze --paper" in text
    assert DOUBTED not in render(table, form, Layout())


def test_a_row_of_another_data_set_takes_the_doubts_of_the_papers_row() -> None:
    assert any(cell.doubted for cell in _table(("Digits", "DeiT-T", "Int4"), compared_with=IMAGENET).rows[0].cells)
    assert not any(cell.doubted for cell in _table(("CIFAR-10", "NiN", "Int4")).rows[0].cells)
