"""A review of the paper's tables by their own arithmetic and by what others published.

It reads nothing but the shipped tables (`reports/paper`), so that a reader can check each finding by hand:

- *identity*: numbers that contradict the formulas which they are said to come from, or that show that a search ended
  at an end of its interval. Nothing is assumed but the formulas, the rounding of the printed values and the number
  of weights.
- *match*: a value that equals another published one to the last printed digit.
- *suspicion*: values that are implausible together, or that equal a published one in fewer digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from qsweep.reports.inversion import IMAGES, LOWEST, UPPER, keys_of, paper_content, paper_rows, read_paper, weights_of
from qsweep.reports.inversion import paper_sheet as inversion_sheet
from qsweep.reports.sheet import Part, Sheet, headings

Keys = tuple[str, str, str]
"""Data set, network, precision."""
Interval = tuple[float, float]


class Strength(StrEnum):
    """How much a finding proves."""

    IDENTITY = "identity"
    MATCH = "match"
    SUSPICION = "suspicion"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one row of one of the paper's tables."""

    strength: Strength
    table: int
    keys: Keys
    columns: tuple[str, ...]
    """The cells of the row that it speaks of, by the names of the table's file."""
    text: str
    numbers: Mapping[str, float]
    """What the text says, as numbers."""
    doubt: bool = True
    """Whether the cells can't be compared with as they stand. A value that is published elsewhere too may be right."""


ROUNDING = 0.0005
"""Half of the last digit of Table 3."""
RATIO_SLACK = 0.001
"""Beyond rounding, a share of the ratio ‖w − w₀‖²/‖w‖²: it leaves no room for more than a last digit."""
WEIGHTS_SLACK = 0.02
"""Beyond rounding, a share of ω/m: the identity leaves out ε = 0.001 in the magnitude-aware bounds."""
INITIAL_SLACK = 0.05
"""Norms of initial weights that agree: w and w₀ are orthogonal up to a few percent of ‖w₀‖."""
DIGITS = 2
"""Decimals of Table 1's accuracies, and of its losses on ImageNet."""
HIGH = 1.25
"""How many times the logged loss is implausible: the nearest logged accuracies differ by up to 7 points."""
BOUNDS = ("pac", "sharp")
"""What the columns of a bound begin with."""
BITS = {"FP32": "32", "Int8": "8", "Int4": "4", "Int2": "2"}
"""Bit widths of weights and activations, as the other papers' tables name them."""


def review() -> list[Finding]:
    """Everything that is found in the paper's Tables 1 and 3: by table, then in the order of its rows."""
    found = [*_published(), *_implausible_losses(), *_contradictions(), *_saturated(), *_initial_norms()]
    order = {
        (table, keys_of(row)): place
        for table, name in ((1, "table1.csv"), (3, "table3.csv"))
        for place, row in enumerate(read_paper(name))
    }
    return sorted(found, key=lambda one: (one.table, order[one.table, one.keys]))


@cache
def doubted_cells(file: str) -> frozenset[tuple[Keys, str]]:
    """The cells (row and column) of one of the paper's tables that a finding speaks against.

    `file` is the table's file, such as `table3.csv`; a table that is not reviewed has none.
    """
    mine = [one for one in review() if one.doubt and file == f"table{one.table}.csv"]
    return frozenset((one.keys, column) for one in mine for column in one.columns)


def review_parts() -> list[Part]:
    """The review as it is printed."""
    found = review()
    counted = ", ".join(f"{sum(one.strength is kind for one in found)} by {kind}" for kind in Strength)
    return [
        "# The paper's tables, reviewed",
        *ABOUT,
        "\n".join(f"- {line}" for line in _in_short(found)),
        f"{len(found)} findings: {counted}.",
        "\n".join(f"- {line}" for line in MEANINGS),
        *(_section(number, title, found) for number, title in SECTIONS.items()),
        "## What Tables 2 and 3 imply",
        "Table 3 is computed from σ, α, ‖w‖ and ‖w − w₀‖, of which the paper prints ‖w‖ alone (Table 2). Solving the "
        "formulas for the others gives, row by row:",
        inversion_sheet(),
    ]


def _in_short(found: Sequence[Finding]) -> Iterator[str]:
    """How many rows of each table, and of which networks, have values in doubt."""
    for number in SECTIONS:
        rows = [keys_of(row) for row in read_paper(f"table{number}.csv")]
        mine = [one for one in found if one.doubt and one.table == number]
        doubted = {one.keys for one in mine}
        stronger = {one.keys for one in mine if one.strength is not Strength.SUSPICION}
        networks = dict.fromkeys(keys[:2] for keys in rows if keys in doubted)
        listed = ", ".join(
            f"{' '.join(network)} ({sum(keys[:2] == network for keys in doubted)} of "
            f"{sum(keys[:2] == network for keys in rows)})"
            for network in networks
        )
        yield (
            f"Table {number}: {len(doubted)} of {len(rows)} rows hold values in doubt, {len(doubted - stronger)} of "
            f"them by suspicion alone: {listed}."
        )


def review_content() -> dict[str, Any]:
    """The review for JSON: the findings with their numbers, and what each row of Table 3 implies."""
    return {
        "findings": [
            {
                "strength": str(one.strength),
                "table": one.table,
                "dataset": one.keys[0],
                "network": one.keys[1],
                "precision": one.keys[2],
                "columns": list(one.columns),
                "doubt": one.doubt,
                "finding": one.text,
                "numbers": dict(one.numbers),
            }
            for one in review()
        ],
        "implied": paper_content(),
    }


ABOUT = (
    "The paper is QGen, “On the Ability to Generalize in Quantization Aware Training” (arXiv 2404.11769). Its Tables 1 "
    "and 3 are checked here against its own formulas and against what others published. Nothing is trained or "
    "downloaded: every number below comes from the printed tables, which are installed with qsweep as "
    "reports/paper/table1.csv and so on. Columns have the names of these files.",
    "Where qsweep puts a value that is in doubt beside yours (qsweep tables NAME --against-paper), it is marked "
    "with ‡.",
)
"""What a newcomer has to know first."""
MEANINGS = (
    "identity: the values contradict the formulas that they come from, or show that a search ended at the end of its "
    "interval. Only the formulas, the rounding of the printed digits and the number of weights are assumed.",
    "match: the value equals one that others published, in every printed digit. In the right column it is only named; "
    "in the wrong one it is in doubt.",
    "suspicion: the values are implausible together, or equal a published one in fewer digits. This proves nothing.",
)
HOW = {
    1: (
        "Compared are the accuracies that SAQ (arXiv 2111.12273) and VVTQ (arXiv 2307.00331) publish and the last line "
        "of VVTQ's public training logs, for the same network and bits (saq.csv, vvtq.csv and vvtq-log.csv beside the "
        "tables).",
        "Of DeiT-T, “train” holds validation values, and “test” training values with soft labels: the difference is no "
        "generalization gap.",
        f"A test loss is called high where it is over {HIGH:g} times the validation loss that VVTQ's logs have at the "
        "nearest lower accuracy.",
    ),
    3: (
        "w are the trained weights, w₀ the initial ones, ω their number, m the training images (50,000 on CIFAR; on "
        "ImageNet the rows fit 100,000). A search finds the largest σ (deviation of random noise) and α (distance of "
        "the worst case) at which accuracy falls by no more than 0.1.",
        "By the formulas, pac_init is √(v/m) with v = ‖w − w₀‖²/(4σ²) + ln(m/σ) + 10, and sharp_init with "
        "v = ‖w − w₀‖²·ln(2ω)/(4α²) + ln m + 10; in …_orig ‖w‖² stands for ‖w − w₀‖². So (pac_init/pac_orig)² and "
        "(sharp_init/sharp_orig)² are both ‖w − w₀‖²/‖w‖², but for the logarithms, which are taken off here.",
        "In the magnitude-aware columns, of pac_mag and of sharp_mag, 4·(init² − orig²)/ln(‖w − w₀‖²/‖w‖²) is ω/m, "
        "whatever σ and α are.",
        "Every value may be off by half of its last digit; beyond that, "
        f"{100 * RATIO_SLACK:g}% of the ratio and {100 * WEIGHTS_SLACK:g}% of ω/m are allowed.",
        "Findings about σ, α and ‖w₀‖ need the norms of Table 2, which has none for DeiT-T.",
    ),
}
"""How a reader checks the findings of a table."""
SECTIONS = {1: "Table 1: accuracies, losses, gaps", 3: "Table 3: flatness measures"}


def _section(number: int, title: str, found: Sequence[Finding]) -> Sheet:
    mine = [one for one in found if one.table == number]
    return Sheet(
        headings=headings("Row", "Columns", "Strength", "Finding"),
        rows=tuple((" ".join(one.keys), ", ".join(one.columns), str(one.strength), one.text) for one in mine),
        title=title,
        notes=HOW[number],
        groups=tuple(place for place, one in enumerate(mine) if not place or mine[place - 1].keys != one.keys),
    )


def _contradictions() -> Iterator[Finding]:
    for row in read_paper("table3.csv"):
        keys = keys_of(row)
        values = {name: float(value) for name, value in row.items() if name.startswith(tuple(BOUNDS))}
        yield from contradictions(keys, values, omega=weights_of(*keys[:2]), images=IMAGES[keys[0]])


def contradictions(keys: Keys, values: Mapping[str, float], *, omega: int, images: int) -> Iterator[Finding]:
    """What one row of Table 3 contradicts, whatever its norms: two identities of the bounds' formulas.

    (pac_init/pac_orig)² and (sharp_init/sharp_orig)² are both ‖w − w₀‖²/‖w‖², up to the bounds' logarithms, and
    4·(mag_init² − mag_orig²)/ln(‖w − w₀‖²/‖w‖²) is ω/m. `values` has the columns of Table 3, `omega` is ω, and
    `images` m.
    """
    pac, sharp = (_ratio(values, name, images) for name in BOUNDS)
    if _apart(pac, sharp) > RATIO_SLACK * min(map(abs, (*pac, *sharp))):
        first, second = math.fsum(pac) / 2, math.fsum(sharp) / 2
        yield Finding(
            strength=Strength.IDENTITY,
            table=3,
            keys=keys,
            columns=("pac_init", "pac_orig", "sharp_init", "sharp_orig"),
            text=f"‖w − w₀‖²/‖w‖² is one number, but {_quotient(values, 'pac')} ≈ {first:.3f} and "
            f"{_quotient(values, 'sharp')} ≈ {second:.3f}.",
            numbers={"pac_ratio": first, "sharp_ratio": second},
        )
    expected = omega / images
    for name in BOUNDS:
        found = _weights_an_image(values, name, images)
        if found is not None and _apart(found, (expected, expected)) > WEIGHTS_SLACK * expected:
            middle = math.fsum(found) / 2
            yield Finding(
                strength=Strength.IDENTITY,
                table=3,
                keys=keys,
                columns=tuple(f"{name}_{end}" for end in ("init", "orig", "mag_init", "mag_orig")),
                text=f"ω/m is {_signed(expected)}, but {_of_weights(values, name, images)} ≈ {_signed(middle)} "
                f"({_signed(found[0])} to {_signed(found[1])} by rounding).",
                numbers={"implied": middle, "low": found[0], "high": found[1], "weights_per_image": expected},
            )


def _ratio(values: Mapping[str, float], name: str, images: int) -> Interval:
    """‖w − w₀‖²/‖w‖² by one pair of columns: the interval that rounding and the unknown ln(m/σ) + 10 leave open."""
    logarithms = [math.log(images / sigma) + 10 for sigma in (UPPER, LOWEST)]
    init, orig = values[f"{name}_init"], values[f"{name}_orig"]
    found = [
        (images * (init + first) ** 2 - logarithm) / (images * (orig + second) ** 2 - logarithm)
        for first, second in itertools.product((-ROUNDING, ROUNDING), repeat=2)
        for logarithm in logarithms
    ]
    return min(found), max(found)


def _weights_an_image(values: Mapping[str, float], name: str, images: int) -> Interval | None:
    """ω/m by one pair of bounds; None where rounding leaves the sign of the logarithm open."""
    ratio = _ratio(values, name, images)
    if ratio[0] <= 1 <= ratio[1]:
        return None
    init, orig = values[f"{name}_mag_init"], values[f"{name}_mag_orig"]
    found = [
        4 * ((init + first) ** 2 - (orig + second) ** 2) / math.log(end)
        for first, second in itertools.product((-ROUNDING, ROUNDING), repeat=2)
        for end in ratio
    ]
    return min(found), max(found)


def _quotient(values: Mapping[str, float], name: str) -> str:
    """What a reader types to have ‖w − w₀‖²/‖w‖² by one pair of columns."""
    return f"({values[f'{name}_init']:g}/{values[f'{name}_orig']:g})²"


def _of_weights(values: Mapping[str, float], name: str, images: int) -> str:
    """What a reader types to have ω/m by one pair of bounds."""
    ratio = math.fsum(_ratio(values, name, images)) / 2
    return f"4·({values[f'{name}_mag_init']:g}² − {values[f'{name}_mag_orig']:g}²)/ln {ratio:.4f}"


def _apart(one: Interval, other: Interval) -> float:
    """The distance of two intervals; 0 where they overlap."""
    return max(0.0, one[0] - other[1], other[0] - one[1])


def _signed(value: float) -> str:
    return f"{value:,.1f}".replace("-", "−")


def _saturated() -> Iterator[Finding]:
    """Searches that ended at an end of their interval: the value is a bound, not a measurement."""
    for keys, _, implied in paper_rows():
        for symbol, name in (("σ", "pac"), ("α", "sharp")):
            radius = implied.sigma if symbol == "σ" else implied.alpha
            ends = [one.removeprefix(f"{symbol} ") for one in implied.saturated if one.startswith(symbol)]
            if radius is not None and ends:
                yield Finding(
                    strength=Strength.IDENTITY,
                    table=3,
                    keys=keys,
                    columns=(f"{name}_init", f"{name}_orig"),
                    text=f"Solved for {symbol}, the formula gives {radius:.4f}, the {ends[0]} end of a search in "
                    f"[0, {UPPER:g}]: the value is a bound, not a measurement.",
                    numbers={"radius": radius},
                )


def _initial_norms() -> Iterator[Finding]:
    """‖w₀‖ by Tables 2 and 3 is the same at every precision of a network, up to the draw of w₀."""
    norms = {keys: implied.initial for keys, _, implied in paper_rows() if implied.initial is not None}
    for keys, norm in norms.items():
        others = {other[2]: value for other, value in norms.items() if other[:2] == keys[:2] and other != keys}
        agree = [value for value in others.values() if abs(value - norm) <= INITIAL_SLACK * norm]
        if len(agree) < len(others) / 2:
            listed = ", ".join(f"{value:.1f} ({precision})" for precision, value in others.items())
            yield Finding(
                strength=Strength.SUSPICION,
                table=3,
                keys=keys,
                columns=("pac_init", "pac_orig"),
                text=f"With the norm of Table 2, ‖w₀‖ is {norm:.1f}, beside {listed}: that norm is of another model, "
                "or the trainings did not start alike.",
                numbers={"initial_norm": norm} | {f"initial_norm_{one}": value for one, value in others.items()},
            )


@dataclass(frozen=True, kw_only=True)
class Published:
    """One value that others published."""

    keys: Keys
    split: str
    """`train` or `test`: what it is measured on, whatever column the paper has it in."""
    quantity: str
    """`acc` (top-1 in percent) or `loss`."""
    value: str
    """As it is printed."""
    what: str
    """In words, with its source."""


def _published_values() -> Iterator[Published]:
    precision = {bits: name for name, bits in BITS.items()}
    for file, paper in (("vvtq.csv", "VVTQ"), ("saq.csv", "SAQ")):
        for row in read_paper(file):
            bits = row["weight_bits"]
            if bits in precision and row["activation_bits"] == bits:
                keys = (row["dataset"], row["model"], precision[bits])
                what = f"{paper}'s published validation accuracy"
                yield Published(keys=keys, split="test", quantity="acc", value=row["top1"], what=what)
    logs = read_paper("vvtq-log.csv")
    for row in logs:
        last = max(int(one["epoch"]) for one in logs if _run(one) == _run(row))
        if row["weight_bits"] in precision and int(row["epoch"]) == last:
            keys = ("ImageNet-1K", row["model"], precision[row["weight_bits"]])
            for column, split, quantity, words in LOGGED:
                what = f"the {words} at the end of VVTQ's training log"
                yield Published(keys=keys, split=split, quantity=quantity, value=row[column], what=what)


LOGGED = (
    ("train_soft_loss", "train", "loss", "training loss (soft labels)"),
    ("train_top1", "train", "acc", "training accuracy"),
    ("val_loss", "test", "loss", "validation loss"),
    ("val_top1", "test", "acc", "validation accuracy"),
)
"""Columns of the training logs."""


def _run(row: Mapping[str, str]) -> tuple[str, str]:
    return row["model"], row["weight_bits"]


def _published() -> Iterator[Finding]:
    """Values of Table 1 that others published, and whether they stand in the column of the same data."""
    rows = {keys_of(row): row for row in read_paper("table1.csv")}
    seen: set[tuple[Keys, str, str]] = set()
    for one in _published_values():
        for split in ("train", "test"):
            column = f"{split}_{one.quantity}"
            printed = rows.get(one.keys, {}).get(column)
            if printed is None or (one.keys, column, one.split) in seen:
                continue
            if (digits := _equal_digits(printed, one.value)) is not None:
                seen.add((one.keys, column, one.split))
                exchanged = split != one.split
                yield Finding(
                    strength=Strength.MATCH if digits >= DIGITS else Strength.SUSPICION,
                    table=1,
                    keys=one.keys,
                    columns=(column, "generalization_gap") if exchanged else (column,),
                    text=f"{printed} is {one.what} ({one.value})"
                    + (f": it stands in the column {column}." if exchanged else ", in the column where it belongs."),
                    numbers={"paper": float(printed), "published": float(one.value)},
                    doubt=exchanged,
                )


def _equal_digits(printed: str, published: str) -> int | None:
    """The decimals in which two printed values agree when the longer one is rounded; None where they don't."""
    digits = min(_decimals(printed), _decimals(published))
    first, second = sorted((printed, published), key=_decimals)
    return digits if abs(float(first) - float(second)) <= 0.5 * 10**-digits * (1 + 1e-9) else None


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _implausible_losses() -> Iterator[Finding]:
    """A test loss above the validation loss that a public log has at a lower accuracy."""
    logs = [(float(row["val_top1"]), float(row["val_loss"])) for row in read_paper("vvtq-log.csv")]
    for row in read_paper("table1.csv"):
        accuracy, loss = float(row["test_acc"]), float(row["test_loss"])
        lower = [logged for logged in logs if logged[0] <= accuracy]
        if row["dataset"] == "ImageNet-1K" and lower and loss > HIGH * max(lower)[1]:
            nearest = max(lower)
            yield Finding(
                strength=Strength.SUSPICION,
                table=1,
                keys=keys_of(row),
                columns=("train_loss", "test_loss", "generalization_gap"),
                text=f"A test loss of {row['test_loss']} at {row['test_acc']}% is high: VVTQ's log has a validation "
                f"loss of {nearest[1]:.2f} at {nearest[0]:.1f}%. train_loss, {row['train_loss']}, is closer: the two "
                "losses look exchanged.",
                numbers={"test_loss": loss, "logged_loss": nearest[1], "logged_accuracy": nearest[0]},
            )
