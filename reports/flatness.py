"""Tables 2 and 3: the flatness of each trained model under each declared convention, and against full precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qsweep.reports.averages import averaged_over
from qsweep.reports.declaration import Declaration, paper_values
from qsweep.reports.quantization import quantization_of
from qsweep.reports.table import Cell, Row, Table, make_cell
from qsweep.sweeps.kinds import TRAIN
from qsweep.sweeps.measures import Flatness, PacBayes, measure_settings
from qsweep.sweeps.spec import Spec

SATURATED = "*"
FLATTER, SHARPER = "↓", "↑"
PREFIX = {
    ("pac_bayes", "plain"): "pac",
    ("pac_bayes", "magnitude"): "pac_mag",
    ("sharpness", "plain"): "sharp",
    ("sharpness", "magnitude"): "sharp_mag",
}
COLUMNS = {"init": "value_init", "orig": "value_orig", "flatness": "flatness"}
NAMED = ("measure", "scaling", "noise_std", "perturb", "perturb_step", "fold_bn")
REFERENCE = "reference · latent+s"
"""The convention of the reference code, and most likely the paper's."""

Keys = tuple[str, ...]


@dataclass(kw_only=True)
class Group:
    """The models behind one row: how many there should be, and the values found with their jobs, by column."""

    expected: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    diverged: set[str] = field(default_factory=set)
    values: dict[str, list[tuple[str, float]]] = field(default_factory=lambda: defaultdict(list))
    saturated: set[str] = field(default_factory=set)


def make_flatness_table(
    declaration: Declaration, *, heading: str, spec: Spec, results: Iterable[Mapping[str, Any]]
) -> Table:
    """Table 2 or 3 from the committed rows of `measures`, each with its job, in any order.

    A row of Table 3 is a network at a precision under one convention. A quantized cell says whether it is
    flatter than the full-precision one beside it, and each cell whether a search behind it was saturated.
    """
    rows_of = {row["job"]: row for row in results}
    settings: dict[str, Mapping[str, Any]] = {}
    groups: dict[Keys, Group] = {}
    measures = placed(spec.flatness_measures())
    for parent in spec.measured(TRAIN):
        training = parent.training
        settings[parent.identity] = training.settings()
        shape = f"{training.model.title} ({training.model.shape})" if training.model.shape else training.model.title
        keys = (training.data.title, shape, str(quantization_of(training.settings())))
        for measure, conventions in measures:
            row = rows_of.get(spec.child(parent, measure).identity)
            for convention in conventions:
                place = (*keys, convention) if "convention" in declaration.rows else keys
                _add(groups.setdefault(place, Group()), declaration, measure, parent.identity, row)
    paper = paper_values(declaration)
    table = Table(
        declaration=declaration,
        heading=heading,
        rows=tuple(_row(declaration, keys, group, paper, settings) for keys, group in groups.items()),
        compared_with=None,
    )
    return _compared(table)


def placed(measures: Sequence[Flatness]) -> list[tuple[Flatness, list[str]]]:
    """Each measure with the conventions in whose rows it stands.

    Sharpness knows no noise: it stands beside every PAC-Bayes measure with the same perturbed weights.
    """
    varying = varying_settings(measures)
    noisy = [one for one in measures if isinstance(one, PacBayes)]
    found = []
    for measure in measures:
        mine = {convention_name(measure, varying)}
        if not isinstance(measure, PacBayes):
            mine = {convention_name(one, varying) for one in noisy if _perturbed(one) == _perturbed(measure)} or mine
        found.append((measure, sorted(mine)))
    return found


def varying_settings(measures: Sequence[Flatness]) -> set[str]:
    """The settings beside the usual conventions in which measures of one kind differ within a sweep."""
    first: dict[tuple[str, str], Any] = {}
    return {
        name
        for one in measures
        for name, value in measure_settings(one).items()
        if name not in NAMED and first.setdefault((one.name, name), value) != value
    }


def _perturbed(measure: Flatness) -> tuple[str, bool, str, str]:
    steps = measure.perturb_step or measure.perturb == "quantized"
    return measure.perturb, steps, measure.fold_bn, measure.perturb_folded


def convention_name(measure: Flatness, varying: Collection[str]) -> str:
    """The conventions in words: how noise is drawn, what is perturbed, and whatever else differs in the sweep."""
    noise = measure.noise_std if isinstance(measure, PacBayes) else "–"
    latent = "latent+s" if measure.perturb_step else "latent"
    parts = [noise, latent if measure.perturb == "latent" else "quantized"]
    if measure.fold_bn != "reference":
        parts.append(f"fold {measure.fold_bn}")
    flat = measure_settings(measure)
    parts += [f"{name} {flat[name]}" for name in sorted(varying) if name in flat]
    return " · ".join(parts)


def _add(group: Group, declaration: Declaration, measure: Flatness, parent: str, row: Mapping[str, Any] | None) -> None:
    """Take one measure of one model into its row."""
    group.expected.add(parent)
    if row is None:
        return
    if row["diverged"]:
        group.diverged.add(parent)
        return
    prefix = PREFIX[measure.name, measure.scaling]
    values = {f"{prefix}_{name}": row[column] for name, column in COLUMNS.items()}
    if declaration.number == 2:
        # The norm is the same for every measure of a model: one of them stands for it.
        values = {} if parent in group.done else {"weight_norm": row["weight_norm"]}
    group.done.add(parent)
    for name, value in values.items():
        if value is not None:
            group.values[name].append((row["job"], float(value)))
        if row["saturated"]:
            group.saturated.add(name)


def _row(
    declaration: Declaration,
    keys: Keys,
    group: Group,
    paper: Mapping[Keys, Mapping[str, float]],
    settings: Mapping[str, Mapping[str, Any]],
) -> Row:
    beside = paper.get(keys[:3], {}) if len(keys) == 3 or keys[3].startswith(REFERENCE) else {}
    cells = []
    for column in declaration.columns:
        behind = tuple(sorted((job, column.scale * value) for job, value in group.values[column.value]))
        marks = SATURATED if column.value in group.saturated else ""
        cells.append(make_cell(column, behind, beside.get(column.name), marks=marks))
    return Row(
        keys=keys,
        cells=tuple(cells),
        expected=len(group.expected),
        done=len(group.done | group.diverged),
        diverged=tuple(sorted(group.diverged)),
        averaged=averaged_over(declaration, [settings[job] for job in sorted(group.done - group.diverged)]),
    )


def _compared(table: Table) -> Table:
    """The verdicts of Table 3: each quantized cell against full precision under the same convention."""
    if "convention" not in table.declaration.rows:
        return table
    full = {(row.keys[0], row.keys[1], row.keys[3]): row for row in table.rows if row.keys[2] == "FP32"}
    rows: list[Row] = []
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        beside = full.get((row.keys[0], row.keys[1], row.keys[3]))
        if row.keys[2] == "FP32" or beside is None:
            rows.append(row)
            continue
        cells = tuple(_against(cell, other) for cell, other in zip(row.cells, beside.cells, strict=True))
        rows.append(replace(row, cells=cells))
        verdicts[row.keys[3]] += [cell.marks[-1] for cell in cells if cell.marks and cell.marks[-1] != SATURATED]
    remarks = [
        f"Flatter than FP32 under {convention}: {found.count(FLATTER)} of {len(found)} cells."
        for convention, found in verdicts.items()
    ]
    if verdicts:
        remarks.insert(0, f"{FLATTER} flatter than FP32 under the same convention, {SHARPER} sharper.")
    if any(SATURATED in cell.marks for row in rows for cell in row.cells):
        remarks.append(f"{SATURATED} saturated: a search ended at an end of its interval, so this is only a bound.")
    return replace(table, rows=tuple(rows), remarks=tuple(remarks))


def _against(cell: Cell, full: Cell) -> Cell:
    if cell.mean is None or full.mean is None or cell.mean == full.mean:
        return cell
    return replace(cell, marks=cell.marks + (FLATTER if cell.mean < full.mean else SHARPER))
