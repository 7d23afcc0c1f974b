"""The bounds are the paper's: its own numbers come out, and a hand-computed case."""

from __future__ import annotations

import csv
import math
from importlib import resources

import pytest
import torch

from qsweep.reports.inversion import paper_rows
from qsweep.sweeps.errors import InputError
from qsweep.workers.measures.bounds import pac_bayes, pac_bayes_magnitude, sharpness, sharpness_magnitude

M, OMEGA, NORM = 50_000, 2_196_750, 130.686


def test_the_papers_pac_orig_of_nin_4x10_comes_out() -> None:
    assert pac_bayes(NORM**2, 0.13283, M) == pytest.approx(2.200, rel=1e-3)


def test_the_papers_sharp_orig_of_nin_4x10_comes_out() -> None:
    assert sharpness(NORM**2, 2.0, OMEGA, M) == pytest.approx(0.572, rel=1e-3)


def test_the_formulas_hold_term_by_term() -> None:
    assert pac_bayes(7.0, 0.3, 900) == pytest.approx(math.sqrt((7 / (4 * 0.09) + math.log(900 / 0.3) + 10) / 900))
    assert sharpness(7.0, 0.3, 50, 900) == pytest.approx(
        math.sqrt((7 * math.log(100) / (4 * 0.09) + math.log(900) + 10) / 900)
    )


def test_magnitude_aware_bounds_of_three_weights_computed_by_hand() -> None:
    """d² = (1, 4, 9), ‖r‖² = 14, ω = 3, ε = 0.1, σ' = α' = 0.5, m = 100, δ = 0.01.

    PAC: numerator 0.01 + 1.25·14/3 = 5.843333…; denominators 0.01 + 0.25·(1, 4, 9) = 0.26, 1.01, 2.26;
    ¼·[3·ln 5.843333 − ln 0.26 − ln 1.01 − ln 2.26] = ¼·[5.295904 + 1.347074 − 0.009950 − 0.815365] = 1.454416.
    """
    squares = torch.tensor([1.0, 4.0, 9.0])
    found = pac_bayes_magnitude(14.0, squares, 0.5, 100, epsilon=0.1)
    assert found == pytest.approx(math.sqrt((1.454416 + math.log(200) + 10) / 100), rel=1e-6)
    more = 4 * math.log(600)
    above = 0.01 + (0.25 + more) * 14 / 3
    by_hand = (3 * math.log(above) - math.log(0.26) - math.log(1.01) - math.log(2.26)) / 4
    found = sharpness_magnitude(14.0, squares, 0.5, 100, delta=0.01, epsilon=0.1)
    assert found == pytest.approx(math.sqrt((by_hand + math.log(100) + 10) / 100), rel=1e-12)


def test_mag_init_and_mag_orig_differ_by_the_ratio_of_the_norms() -> None:
    """(mag-init)² − (mag-orig)² = ω/(4m)·ln(‖w−w₀‖²/‖w‖²), up to ε²: the identity used on the paper's rows."""
    torch.manual_seed(0)
    squares = torch.rand(5000, dtype=torch.float64) + 0.5
    init, orig = (pac_bayes_magnitude(square, squares, 0.2, M) for square in (5000.0, 3000.0))
    assert init**2 - orig**2 == pytest.approx(5000 / (4 * M) * math.log(5000 / 3000), rel=1e-5)


def test_the_identity_gives_the_papers_omega_back() -> None:
    rows = {keys: (omega, one) for keys, omega, one in paper_rows()}
    for precision in ("FP32", "Int8", "Int4", "Int2"):
        omega, one = rows["CIFAR-10", "NiN (4x10)", precision]
        assert omega == OMEGA
        assert one.omega == pytest.approx(omega, rel=0.01)


def test_the_inversion_finds_the_papers_grid_initialization_and_ends() -> None:
    rows = {keys: one for keys, _, one in paper_rows()}
    assert len(rows) == 40
    first = rows["CIFAR-10", "NiN (4x10)", "FP32"]
    assert first.sigma == pytest.approx(0.13283, abs=2e-4)
    assert first.alpha == pytest.approx(1.999, abs=1e-3)
    for precision in ("FP32", "Int8", "Int4", "Int2"):
        one = rows["CIFAR-10", "NiN (4x10)", precision]
        assert one.initial == pytest.approx(31.7, abs=0.2)
    upper = {keys for keys, one in rows.items() if "α upper" in one.saturated}
    assert upper == {
        ("CIFAR-10", "NiN (4x10)", "FP32"),
        ("CIFAR-10", "NiN (4x12)", "FP32"),
        ("CIFAR-10", "NiN (4x12)", "Int8"),
        ("CIFAR-100", "NiN (5x10)", "Int2"),
    }
    lower = {keys for keys, one in rows.items() if "α lower" in one.saturated}
    assert lower == {
        *(("ImageNet-1K", "ResNet-18", precision) for precision in ("FP32", "Int8", "Int4", "Int2")),
        *(("ImageNet-1K", "ResNet-50", precision) for precision in ("Int4", "Int2")),
    }
    assert [keys for keys, one in rows.items() if "σ lower" in one.saturated] == [("ImageNet-1K", "ResNet-50", "Int2")]


def test_the_shipped_tables_are_the_papers() -> None:
    text = resources.files("qsweep.reports").joinpath("paper", "table3.csv").read_text(encoding="utf-8")
    first = next(csv.DictReader(text.splitlines()))
    assert (first["model"], first["precision"], first["pac_orig"], first["sharp_orig"]) == (
        "NiN (4x10)",
        "FP32",
        "2.2",
        "0.572",
    )


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match=r"sigma: .* is not allowed"):
        pac_bayes(1.0, sigma, 100)
    with pytest.raises(InputError, match="alpha"):
        sharpness(1.0, sigma, 10, 100)
    with pytest.raises(InputError, match="sigma"):
        pac_bayes_magnitude(1.0, torch.ones(3), sigma, 100)


def test_other_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="training images"):
        pac_bayes(1.0, 0.1, 0)
    with pytest.raises(InputError, match="delta"):
        sharpness_magnitude(1.0, torch.ones(3), 0.1, 100, delta=0.0)
    with pytest.raises(InputError, match="squared norm"):
        pac_bayes(-1.0, 0.1, 100)
    with pytest.raises(InputError, match="squares"):
        pac_bayes_magnitude(1.0, -torch.ones(3), 0.1, 100)


def test_a_value_below_zero_has_no_root() -> None:
    assert math.isnan(pac_bayes_magnitude(0.0, torch.full((1000,), 1e6), 1.0, 100))
