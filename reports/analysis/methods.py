"""What sharpness-aware training does beside plain training, and whether quantization flattens: claims of SAQ, and the
question on which QGen and SAQ contradict each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import total_ordering
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qsweep.reports.analysis.claims import SAQ, Claim, Number, Statement, Verdict, number_of, of_trend, together
from qsweep.reports.analysis.measured import Quantity
from qsweep.reports.analysis.pairing import ALPHA, Shift, matched, shift_of, simultaneous
from qsweep.reports.flatness import FLATTER, SHARPER
from qsweep.reports.flatness import SATURATED as BOUND
from qsweep.reports.labels import SEARCHES
from qsweep.reports.quantization import filled, setting_text
from qsweep.sweeps.components import PARTS

METHOD = PARTS["method"]
LOSS_RISES = Statement(name="train-loss-rises-with-rho", text="The training loss rises with ρ", where=SAQ)
GAP_NARROWS = Statement(name="sharpness-aware-narrows-gap", text="SAM and SAQ narrow the generalization gap", where=SAQ)
FLATTER_THAN_PLAIN = Statement(
    name="sharpness-aware-is-flatter",
    text="SAM and SAQ find flatter minima than plain training, by every measure and convention",
    where=SAQ,
)
IN_ORDER = Statement(
    name="saq-over-sam-over-plain",
    text="SAQ is at least as accurate as SAM, and SAM as plain training, at equal bits",
    where=SAQ,
)

Values = npt.NDArray[np.float64]


@total_ordering
@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training method with those of its settings in which models of the method differ: `SAM ρ 0.05`."""

    place: int
    """Among the methods: the plain one is the first."""
    label: str
    details: tuple[tuple[str, Any], ...] = ()

    @property
    def is_plain(self) -> bool:
        return not self.place

    @property
    def rho(self) -> float | None:
        """Its radius, if models of the method differ in it."""
        return dict(self.details).get("rho")

    @property
    def but_rho(self) -> Trained:
        """The same for those that differ in their radius alone."""
        return replace(self, details=tuple(one for one in self.details if one[0] != "rho"))

    def __str__(self) -> str:
        shown = (f"{'ρ' if name == 'rho' else name} {setting_text(value)}" for name, value in self.details)
        return " ".join((self.label, *shown))

    def __lt__(self, other: Trained) -> bool:
        return (self.place, str(self.details)) < (other.place, str(other.details))


def methods_of(runs: pd.DataFrame) -> pd.Series:
    """The method of each run, as `Trained`."""
    rows: Any = runs.to_dict("records")
    chosen = [str(filled(row, METHOD.name) or _plain()) for row in rows]
    names = {one: METHOD.components[one].names for one in set(chosen)}
    differing = {
        one: [name for name in names[one] if len({setting_text(filled(row, name)) for row in own}) > 1]
        for one in names
        for own in [[row for row, method in zip(rows, chosen, strict=True) if method == one]]
    }
    order = list(METHOD.components)
    found = [
        Trained(
            place=order.index(one),
            label=one if one == _plain() else METHOD.components[one].label or one,
            details=tuple((name, filled(row, name)) for name in differing[one]),
        )
        for row, one in zip(rows, chosen, strict=True)
    ]
    return pd.Series(found, runs.index, object)


def _plain() -> str:
    return next(iter(METHOD.components))


@dataclass(frozen=True, kw_only=True, eq=False)
class Methods:
    """The models of one data set and one family of networks by their methods.

    `beside` is what of a model's settings is not its method's: models of one `beside` differ in the method alone.
    `quantization` is what each would be called if it was trained plainly; models of one `configuration` differ in it or
    in the method.
    """

    group: str
    runs: pd.DataFrame
    method: pd.Series
    beside: pd.Series
    quantization: pd.Series
    configuration: pd.Series

    def rivals(self) -> list[Trained]:
        """The methods but the plain one, in order."""
        return sorted({one for one in self.method if not one.is_plain})

    def table(self, values: pd.Series) -> pd.DataFrame:
        """One row a configuration, one column a `Trained`; the quantity's repeats are averaged."""
        return matched(values, self.method, self.beside)


def judge(models: Methods, flatness: Sequence[Quantity]) -> list[Claim]:
    """The claims about the methods; none where all models were trained by one."""
    if not models.rivals():
        return []
    return [
        loss_rises(models),
        gap_narrows(models),
        flatter_than_plain(models, flatness),
        in_order(models),
    ]


def loss_rises(models: Methods) -> Claim:
    """The training loss over plain training, which is ρ = 0, and each radius of a method, in their order."""
    table, numbers, tested = models.table(models.runs["train_loss"]), list[Number](), dict[str, Claim]()
    for method in dict.fromkeys(one.but_rho for one in models.rivals()):
        radii = sorted((one for one in models.rivals() if one.but_rho == method), key=lambda one: one.rho or 0.0)
        columns = [*_plain_columns(table), *(one for one in radii if one in table.columns)]
        complete = table[columns].dropna()
        if complete.empty or len(columns) < 2:
            continue
        steps = list(itertools.pairwise(columns))
        shifts = simultaneous([_values(complete[high] - complete[low]) for low, high in steps])
        own = [Number(label=f"train loss at {one}", value=float(complete[one].mean())) for one in columns]
        own += [
            number_of(f"train loss: {high} − {low}", shift, towards=1)
            for (low, high), shift in zip(steps, shifts, strict=True)
        ]
        numbers += own
        tested[str(method)] = of_trend(LOSS_RISES, models.group, _values(complete[columns]), own, len(columns))
    if not tested:
        return LOSS_RISES.judged(models.group, Verdict.NO_DATA, "No configuration is done at two radii.")
    reason = " ".join(f"{name}: {one.reason}" for name, one in tested.items())
    return LOSS_RISES.judged(models.group, together([one.verdict for one in tested.values()]), reason, numbers)


def gap_narrows(models: Methods) -> Claim:
    """Each method's gap against plain training's, over configurations that differ in the method alone."""
    table = models.table(models.runs["generalization_gap"])
    pairs = [(one, plain) for one in models.rivals() for plain in _plain_columns(table)]
    return _compared(GAP_NARROWS, models, table, pairs, "gap", towards=-1)


def in_order(models: Methods) -> Claim:
    """SAM − plain and SAQ − SAM, each SAQ's case against SAM of the same radius."""
    table = models.table(models.runs["test_accuracy"])
    plain = _plain_columns(table)
    sam = [one for one in models.rivals() if one.label == "SAM"]
    saq = [one for one in models.rivals() if one.label.startswith("SAQ")]
    pairs = [(one, other) for one in sam for other in plain]
    pairs += [(one, other) for one in saq for other in sam if one.rho == other.rho]
    return _compared(IN_ORDER, models, table, pairs, "test accuracy", towards=1)


def _compared(
    statement: Statement,
    models: Methods,
    table: pd.DataFrame,
    pairs: Sequence[tuple[Trained, Trained]],
    quantity: str,
    *,
    towards: int,
) -> Claim:
    labels, samples = [], []
    for one, other in pairs:
        if one in table.columns and other in table.columns:
            both = table[[one, other]].dropna()
            if len(both):
                labels.append(f"{quantity}: {one} − {other}")
                samples.append(_values(both[one] - both[other]))
    if not samples:
        return statement.judged(models.group, Verdict.NO_DATA, "No two methods are done in one configuration.")
    better = "narrower" if towards < 0 else "higher"
    numbers = [
        number_of(label, shift, towards=towards, note=_share(sample, towards, better))
        for label, sample, shift in zip(labels, samples, simultaneous(samples), strict=True)
    ]
    return statement.judged(models.group, *_of_differences(numbers, samples, better, len(samples)), numbers)


def _share(sample: Values, towards: int, better: str) -> str:
    return f"{better} in {int((np.sign(sample) == towards).sum())} of {len(sample)}"


def _of_differences(
    numbers: Sequence[Number], samples: Sequence[Values], better: str, comparisons: int
) -> tuple[Verdict, str]:
    """The verdict over differences that are judged together, and why."""
    verdicts = [number.verdict or Verdict.UNDECIDED for number in numbers]
    yes, no = verdicts.count(Verdict.SUPPORTED), verdicts.count(Verdict.CONTRADICTED)
    text = f"Significantly {better} in {yes} of {len(numbers)} comparisons, the opposite in {no}."
    few = [len(one) for one in samples if not decidable(len(one), comparisons)]
    if few:
        text += f" {_few(min(few), max(few), len(few), len(numbers))}"
    return together(verdicts), text


def _few(low: int, high: int, count: int, of: int) -> str:
    pairs = f"{low}" if low == high else f"{low} to {high}"
    what = "None can" if count == of else f"{count} of them can't"
    return f"{what} be decided by so few pairs ({pairs} each)."


def decidable(pairs: int, comparisons: int = 1) -> bool:
    """Whether any outcome of a signed-rank test over so many pairs is significant beside so many others."""
    return comparisons * 2.0 ** (1 - pairs) <= ALPHA


def flatter_than_plain(models: Methods, flatness: Sequence[Quantity]) -> Claim:
    """Each method against plain training, by each measure under each convention.

    The claim is about all of them: each is tested by itself (an intersection–union test), without adjustment.
    """
    numbers, samples = list[Number](), list[Values]()
    for quantity in flatness:
        table, bounds = models.table(quantity.values), models.table(_flags(quantity))
        for one in models.rivals():
            for other in _plain_columns(table):
                both = table[[one, other]].dropna() if one in table.columns else table.iloc[:0]
                if both.empty:
                    continue
                sample = _values(both[one] - both[other])
                samples.append(sample)
                numbers.append(
                    number_of(
                        f"{quantity.label}: {one} − {other}",
                        shift_of(sample),
                        towards=-1,
                        note=_share(sample, -1, "flatter") + (SATURATED if _any(bounds, one, other) else ""),
                    )
                )
    if not numbers:
        return FLATTER_THAN_PLAIN.judged(models.group, Verdict.NO_DATA, "No flatness was measured of two methods.")
    return FLATTER_THAN_PLAIN.judged(models.group, *_of_differences(numbers, samples, "flatter", 1), numbers)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measure under one convention in one comparison: −1 flatter, +1 sharper, 0 undecided; and in how many pairs
    it was flatter."""

    sign: int
    flatter: int
    shift: Shift
    saturated: bool
    """Whether a search behind it ended at an end of its interval, so that a value is a bound only."""

    @property
    def word(self) -> str:
        """The finding in a word."""
        return {-1: "flatter", 0: "undecided", 1: "sharper"}[self.sign]

    @property
    def mark(self) -> str:
        """The finding in a sign, as `SIGNS` explains them."""
        undecided = "·" if decidable(self.shift.pairs) else "?"
        return {-1: FLATTER, 0: undecided, 1: SHARPER}[self.sign]

    def __str__(self) -> str:
        few = "" if decidable(self.shift.pairs) else ", too few pairs"
        return f"{self.word} ({self.flatter} of {self.shift.pairs}{few}{SATURATED if self.saturated else ''})"


SIGNS = (
    "Init, Orig and 1/radius² of each search, in this order: ↓ flatter, ↑ sharper, · undecided, ? too few pairs for "
    "any test to decide; * a search ended at an end of its interval, so its values are bounds only."
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What one measure under one convention says in each comparison, by its name."""

    measure: str
    convention: str
    cells: Mapping[str, Finding]

    @property
    def label(self) -> str:
        return f"{self.measure} ({self.convention})" if self.convention else self.measure

    @property
    def search(self) -> str:
        """The search that the measure comes from: three measures come from each."""
        return SEARCHES[self.measure.rpartition("_")[0]]


@dataclass(frozen=True, kw_only=True)
class FlatOrSharp:
    """Does quantization flatten, and does sharpness-aware training flatten beyond that, of one group of models.

    `rows` has what was found in each comparison of `quantization` (each width of plain models against full precision)
    and of `methods` (each method against plain training at the same bits, of quantized models alone).
    """

    group: str
    quantization: tuple[str, ...]
    methods: tuple[str, ...]
    rows: tuple[Compared, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The comparisons."""
        return (*self.quantization, *self.methods)

    def by_search(self) -> list[tuple[str, str, list[str]]]:
        """Each search and convention with the signs of its measures in each comparison."""
        return [
            (
                search,
                convention,
                [_marks([row.cells[name] for row in rows if name in row.cells]) for name in self.names],
            )
            for (search, convention), rows in _grouped(self.rows).items()
        ]

    def answers(self) -> list[Answer]:
        """The answer in words, to each question that the models say something of."""
        asked = (
            (self.quantization, "Does quantization flatten?"),
            (self.methods, "Does sharpness-aware training flatten beyond that?"),
        )
        return [
            Answer(
                question=question,
                verdict=_verdict_of(names, self.rows),
                details=tuple(self._counted(name) for name in names),
            )
            for names, question in asked
            if names
        ]

    def _counted(self, name: str) -> str:
        found = [row.cells[name] for row in self.rows if name in row.cells]
        flat, sharp = (sum(one.sign == sign for one in found) for sign in (-1, 1))
        return f"{name}: flatter under {flat} of {len(found)} measures and conventions, sharper under {sharp}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with its answer, and what it rests on, comparison by comparison."""

    question: str
    verdict: str
    details: tuple[str, ...]


def _grouped(rows: Sequence[Compared]) -> dict[tuple[str, str], list[Compared]]:
    order = list(SEARCHES.values())
    found: dict[tuple[str, str], list[Compared]] = {}
    for row in sorted(rows, key=lambda one: order.index(one.search)):
        found.setdefault((row.search, row.convention), []).append(row)
    return found


def _marks(found: Sequence[Finding]) -> str:
    saturated = any(one.saturated for one in found)
    return "".join(one.mark for one in found) + (BOUND if saturated else "")


def _verdict_of(names: Sequence[str], rows: Sequence[Compared]) -> str:
    found = [row.cells[name].sign for row in rows for name in names if name in row.cells]
    flat, sharp = found.count(-1), found.count(1)
    if flat == len(found):
        return "Yes, under every convention."
    if sharp == len(found):
        return "No, it sharpens under every convention."
    if not flat and not sharp:
        return "Not decided by so few models." if found else "Not measured."
    if flat and sharp:
        return "It depends on the convention."
    return "Yes, where the data decide." if flat else "No, it sharpens where the data decide."


def flat_or_sharp(models: Methods, flatness: Sequence[Quantity]) -> FlatOrSharp | None:
    """The answer of one group; None if it has no sharpness-aware models, quantized models or flatness measures.

    Each comparison is tested by itself at p ≤ 0.05.
    """
    called = models.quantization
    plain = models.method.map(lambda one: one.is_plain)
    full = next((one for one in called if one.is_full), None)
    widths = sorted({one for one in called[plain] if not one.is_full})
    if full is None or not widths or not flatness or not models.rivals():
        return None
    quantized = called.map(lambda one: not one.is_full)
    rows = list[Compared]()
    for quantity in flatness:
        both = [one.reindex(models.runs.index) for one in (quantity.values, _flags(quantity))]
        cells: dict[str, Finding] = {}
        tables = [matched(one[plain], called[plain], models.configuration[plain]) for one in both]
        for one in widths:
            _find(cells, tables, one, full)
        tables = [matched(one[quantized], models.method[quantized], models.beside[quantized]) for one in both]
        for other in _plain_columns(tables[0]):
            for rival in models.rivals():
                _find(cells, tables, rival, other)
        if cells:
            rows.append(Compared(measure=quantity.name, convention=quantity.convention, cells=cells))
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    by_width = tuple(name for name in names if name.endswith(f"− {full}"))
    return FlatOrSharp(
        group=models.group,
        quantization=by_width,
        methods=tuple(name for name in names if name not in by_width),
        rows=tuple(rows),
    )


def _find(cells: dict[str, Finding], tables: Sequence[pd.DataFrame], one: Any, other: Any) -> None:
    """Add what these two columns of a table of values say, if they are there; beside it a table of flags."""
    table, flags = tables
    if one not in table.columns or other not in table.columns:
        return
    both = table[[one, other]].dropna()
    if len(both):
        sample = _values(both[one] - both[other])
        shift = shift_of(sample)
        cells[f"{one} − {other}"] = Finding(
            sign=shift.sign(), flatter=int((sample < 0).sum()), shift=shift, saturated=_any(flags, one, other)
        )


SATURATED = ", saturated"


def _flags(quantity: Quantity) -> pd.Series:
    """Which of its values are bounds only."""
    return pd.Series(dtype=float) if quantity.saturated is None else quantity.saturated.astype(float)


def _any(flags: pd.DataFrame, *columns: Any) -> bool:
    return any(bool(flags[one].fillna(0.0).any()) for one in columns if one in flags.columns)


def _plain_columns(table: pd.DataFrame) -> list[Trained]:
    """The columns of plain training: one, if any model was."""
    columns: list[Any] = list(table.columns)
    return [one for one in columns if one.is_plain]


def _values(frame: pd.Series | pd.DataFrame) -> Values:
    return np.asarray(frame.to_numpy(dtype=np.float64))
