"""What the paper's Tables 2 and 3 imply: σ, α, ‖w₀‖ and saturation, by inverting the bounds' formulas.

With v the reported √(value/m), value = ‖r‖²/(4σ²) + ln(m/σ) + 10 for PAC-Bayes and
‖r‖²·ln(2ω)/(4α²) + ln m + 10 for sharpness. "Orig" has r = w, whose norm is in Table 2, and gives σ and α;
"Init" has r = w − w₀ and then gives its norm. Where w and w₀ are nearly orthogonal,
‖w − w₀‖² − ‖w‖² = ‖w₀‖². (mag-init)² − (mag-orig)² = ω/(4m)·ln(‖w − w₀‖²/‖w‖²) gives ω back.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from qsweep.reports.sheet import Heading, Sheet
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.models import Model, NiN, ResNet

UPPER = 2.0
"""Upper end of the paper's searches."""
NEAR = 0.002
"""Relative distance within which a radius counts as an end of its interval: the tables have three decimals."""
LOWEST = 2 / 256
"""The largest of the lower ends at which the paper's searches stopped: eight halvings."""
HALVINGS = 512
"""27 of the paper's 40 rows give σ and α on multiples of 1/512."""

OMEGA = {
    ("ImageNet-1K", "ResNet-18"): 11_678_912,
    ("ImageNet-1K", "ResNet-50"): 25_502_912,
    ("ImageNet-1K", "DeiT-T"): 5_647_872,
}
"""Weights of convolutions and linear layers where the network is none of `sweeps.models`."""
IMAGES = {"CIFAR-10": 50_000, "CIFAR-100": 50_000, "ImageNet-1K": 100_000}
"""m; on ImageNet the paper's rows fit a subset of this size."""


@dataclass(frozen=True, kw_only=True)
class Implied:
    """What one row of Table 3 implies, given its norm in Table 2. None where the formula has no solution."""

    sigma: float | None
    alpha: float | None
    distance: float | None
    initial: float | None
    omega: float | None
    """ω by the identity of the magnitude-aware columns."""

    @property
    def saturated(self) -> tuple[str, ...]:
        """The searches that ended at an end of their interval: such a number is a bound."""
        found = []
        for name, radius in (("σ", self.sigma), ("α", self.alpha)):
            if radius is not None and radius >= UPPER * (1 - NEAR):
                found.append(f"{name} upper")
            elif radius is not None and _is_lower_end(radius):
                found.append(f"{name} lower")
        return tuple(found)


def invert(norm: float, values: Mapping[str, float], *, omega: int, m: int) -> Implied:
    """What the `values` of one row of Table 3 imply for a network with ‖w‖ = `norm` and ω = `omega`."""
    square = norm**2
    sigma = _solve_sigma(square, m * values["pac_orig"] ** 2, m)
    rest = m * values["sharp_orig"] ** 2 - math.log(m) - 10
    alpha = math.sqrt(square * math.log(2 * omega) / (4 * rest)) if rest > 0 else None
    distance_sq = None
    if sigma is not None:
        distance_sq = 4 * sigma**2 * (m * values["pac_init"] ** 2 - math.log(m / sigma) - 10)
    more = None if distance_sq is None else distance_sq - square
    found = None
    if distance_sq is not None and distance_sq > 0 and distance_sq != square:
        magnitudes = values["pac_mag_init"] ** 2 - values["pac_mag_orig"] ** 2
        found = 4 * m * magnitudes / math.log(distance_sq / square)
    return Implied(
        sigma=sigma,
        alpha=alpha,
        distance=math.sqrt(distance_sq) if distance_sq is not None and distance_sq > 0 else None,
        initial=math.sqrt(more) if more is not None and more > 0 else None,
        omega=found,
    )


def paper_rows() -> list[tuple[tuple[str, str, str], int, Implied]]:
    """Keys, ω and what is implied, for every row of the paper's Table 3 that has a norm in Table 2."""
    norms = {keys_of(row): float(row["weight_l2_norm"]) for row in read_paper("table2.csv")}
    found = []
    for row in read_paper("table3.csv"):
        keys = keys_of(row)
        if keys not in norms:
            continue
        omega = weights_of(keys[0], keys[1])
        values = {name: float(value) for name, value in row.items() if name.startswith(("pac", "sharp"))}
        found.append((keys, omega, invert(norms[keys], values, omega=omega, m=IMAGES[keys[0]])))
    return found


def weights_of(dataset: str, network: str) -> int:
    """ω of one of the paper's networks, such as `NiN (4x10)`."""
    if (dataset, network) in OMEGA:
        return OMEGA[dataset, network]
    shape = re.fullmatch(r"NiN \((\d+)x(\d+)\)|ResNet-(\d+)", network)
    assert shape is not None, f"{network} is none of the paper's networks"
    data = next(one for one in DATASETS.values() if one.title == dataset)
    model: Model = (
        ResNet(depth=int(shape[3]), width=ResNet.usual_width)
        if shape[3]
        else NiN(depth=int(shape[1]), width=int(shape[2]))
    )
    return sum(layer.weights for layer in model.layers(data) if layer.counted)


def read_paper(name: str) -> list[dict[str, str]]:
    """The rows of one of the shipped tables, all values as the texts that stand there."""
    text = resources.files("qsweep.reports").joinpath("paper", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def keys_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    """Data set, network and precision of a row of the paper."""
    return row["dataset"], row["model"], row["precision"]


def paper_sheet() -> Sheet:
    """The inversion of the paper's tables."""
    names = ("σ", "α", "‖w − w₀‖", "‖w₀‖", "ω", "ω by identity", "σ·512", "α·512")
    header = ("Row", *names[:4], "End", *names[4:])
    rows = []
    for keys, omega, one in paper_rows():
        grid = [None if radius is None else radius * HALVINGS for radius in (one.sigma, one.alpha)]
        cells = (
            " ".join(keys),
            _shown(one.sigma, 4),
            _shown(one.alpha, 4),
            _shown(one.distance, 2),
            _shown(one.initial, 2),
            ", ".join(one.saturated).replace("upper", "at 2").replace("lower", "at 0"),
            f"{omega:,}",
            _shown(one.omega, 0),
            _shown(grid[0], 1),
            _shown(grid[1], 1),
        )
        rows.append(cells)
    return Sheet(
        headings=_spared(header, names, {"ω": 5, "σ·512": 4, "α·512": 3, "ω by identity": 2}),
        rows=tuple(rows),
        notes=(
            "σ·512 and α·512 are whole numbers where a bisection of [0, 2] found the value, as in most rows.",
            "“End” says which search stopped at which end of that interval, or as near to 0 as its halvings came: its "
            "value is a bound.",
            "‖w₀‖ should be the same at every precision, and “ω by identity” should be ω.",
        ),
    )


def _spared(header: Sequence[str], numeric: Sequence[str], spare: Mapping[str, int]) -> tuple[Heading, ...]:
    """The columns of the inversion; what follows from others is left out first."""
    return tuple(Heading(name=name, numeric=name in numeric, spare=spare.get(name, 0)) for name in header)


def paper_content() -> list[dict[str, Any]]:
    """The inversion of the paper's tables, for JSON."""
    return [
        {"dataset": keys[0], "network": keys[1], "precision": keys[2], "weights": omega, **asdict(one)}
        | {"saturated": list(one.saturated)}
        for keys, omega, one in paper_rows()
    ]


def _solve_sigma(square: float, value: float, m: int) -> float | None:
    """σ with square/(4σ²) + ln(m/σ) + 10 = value, by halving; the left side falls with σ."""
    low, high = 1e-9, 1e3
    if not _pac(square, high, m) < value < _pac(square, low, m):
        return None
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _pac(square, middle, m) > value else (low, middle)
    return math.sqrt(low * high)


def _pac(square: float, sigma: float, m: int) -> float:
    return square / (4 * sigma**2) + math.log(m / sigma) + 10


def _is_lower_end(radius: float) -> bool:
    """Whether only halvings of the lower end lead here: UPPER / 2^k, small."""
    if radius > LOWEST * (1 + NEAR):
        return False
    halvings = math.log2(UPPER / radius)
    return abs(2 ** (halvings - round(halvings)) - 1) < NEAR


def _shown(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"
