"""Tables 4, 5 and 6: generalization gaps on corrupted test sets, and corruption errors relative to full precision."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsweep.reports.averages import averaged_over
from qsweep.reports.declaration import Column, Declaration, paper_values
from qsweep.reports.labels import network_title
from qsweep.reports.quantization import quantization_of
from qsweep.reports.table import Cell, Row, Table, beside_other_data, is_finite, mean_and_error
from qsweep.sweeps.corruptions import CORRUPTIONS
from qsweep.sweeps.kinds import TRAIN
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.spec import Spec

GAP, ERROR = "generalization_gap", "corruption_error"
"""What a column may show: the gap; or the error relative to full precision, in percent."""
IMAGES = ("corruption", "severity", "data", "corruption_seed", "measure_samples")
"""What decides which images a model is judged by, wherever it is judged."""
VALUES = ("corrupted_loss", "corrupted_accuracy", "train_loss")
"""What a distortion found of its model."""
NEEDED = [
    *("job", "diverged", *VALUES),
    *("source", "frost", "fingerprint", *IMAGES),
]
"""Columns of `distortions` that these tables are made of."""
MEAN = "mean"
"""What the row over all corruptions is called."""
FULL = "FP32"

Keys = tuple[str, ...]
Model = tuple[str, str]
"""What it is called (`Int4`), and the identity of its training."""


@dataclass(kw_only=True)
class Group:
    """The jobs behind one row, of each model, with the corruption of each."""

    title: str
    """Of the network, as the paper calls it."""
    jobs: dict[Model, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of each training, by its identity."""


def make_distortion_table(
    declaration: Declaration,
    *,
    heading: str,
    spec: Spec,
    results: Iterable[Mapping[str, Any]],
    compare_with: str | None = None,
) -> Table:
    """One of Tables 4, 5 and 6 from the committed rows of `distortions`, each with its job, in any order.

    A row is a network under one corruption; without `severity` among the row keys it is the mean over the severities
    that the sweep declares. A model counts once all of its jobs in a row are done. The last row of a network is the
    mean over the corruptions: of the gaps, and of the corruption errors (mCE relative to full precision). The
    corruption error is 100·Σ E(bits)/Σ E(FP32), E the share of corrupted images that a model gets wrong.
    """
    rows_of = {str(row["job"]): row for row in results}
    groups = _groups(declaration, spec)
    paper = paper_values(declaration)
    rows = [
        _row(declaration, keys, group, rows_of, paper.get(_beside(keys, group, compare_with), {}))
        for keys, group in groups.items()
    ]
    compared = any(cell.paper is not None for row in rows for cell in row.cells)
    rows = rows if compare_with is None else [beside_other_data(row) for row in rows]
    return Table(
        declaration=declaration,
        heading=heading,
        rows=tuple(rows),
        compared_with=compare_with if compared else None,
        remarks=tuple(_remarks(declaration, spec, groups.values(), rows_of)),
    )


def _groups(declaration: Declaration, spec: Spec) -> dict[Keys, Group]:
    """The jobs of the sweep by row, in the order of the rows."""
    by_severity = "severity" in declaration.rows
    found: dict[tuple[Any, ...], tuple[Keys, Group]] = {}
    asked = [one for one in spec.declared_measures() if isinstance(one, Distortion)]
    several = len({one.corruption for one in asked}) > 1
    trainings = spec.measured(TRAIN) if asked else []
    networks: dict[tuple[str, str], int] = {}
    for parent in trainings:
        training = parent.training
        network = (training.data.title, network_title(training.model, declaration.usual_widths))
        number = networks.setdefault(network, len(networks))
        model = (str(quantization_of(training.settings())), parent.identity)
        for measure in asked:
            job = spec.child(parent, measure).identity
            severity = (str(measure.severity),) if by_severity else ()
            for name in (measure.corruption, MEAN) if several else (measure.corruption,):
                place = CORRUPTIONS.index(name) if name in CORRUPTIONS else len(CORRUPTIONS)
                order = (number, place, severity)
                if order not in found:
                    found[order] = ((*network, name, *severity), Group(title=training.model.title))
                found[order][1].jobs[model][job] = measure.corruption
                found[order][1].settings[parent.identity] = parent.settings()
    return {keys: group for _, (keys, group) in sorted(found.items(), key=lambda one: one[0])}


def _beside(keys: Keys, group: Group, compare_with: str | None) -> Keys:
    """The row of the paper: its own, or the same network on the data set that this one is compared with."""
    return keys if compare_with is None else (compare_with, group.title, *keys[2:])


def _row(
    declaration: Declaration,
    keys: Keys,
    group: Group,
    rows_of: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, float],
) -> Row:
    lost = {
        parent
        for (_, parent), jobs in group.jobs.items()
        if any(job in rows_of and not is_finite(rows_of[job], VALUES) for job in jobs)
    }
    whole = {
        model: jobs
        for model, jobs in group.jobs.items()
        if model[1] not in lost and all(job in rows_of for job in jobs)
    }
    values = {job: rows_of[job] for jobs in whole.values() for job in jobs}
    cells = [_cell(column, whole, values, paper.get(column.name)) for column in declaration.columns]
    return Row(
        keys=keys,
        cells=tuple(cells),
        expected=len(group.jobs),
        done=len(whole) + len(lost),
        diverged=tuple(sorted(lost)),
        averaged=_averaged(declaration, group, sorted(whole)),
    )


def _averaged(declaration: Declaration, group: Group, models: Sequence[Model]) -> tuple[str, ...]:
    """What the cells of a row average over: each is of the models of one name."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for name, job in models:
        by_name.setdefault(name, []).append(group.settings[job])
    found = [one for some in by_name.values() for one in averaged_over(declaration, some)]
    return tuple(dict.fromkeys(found))


Whole = Mapping[Model, Mapping[str, str]]


def _cell(column: Column, models: Whole, rows: Mapping[str, Mapping[str, Any]], paper: float | None) -> Cell:
    kind, precision = column.value, column.precision
    mine = {model: jobs for model, jobs in models.items() if model[0] == precision}
    if kind == GAP:
        gaps = {model: [_gap(rows[job]) for job in sorted(jobs)] for model, jobs in sorted(mine.items())}
        mean, error = mean_and_error([math.fsum(one) / len(one) for one in gaps.values()])
        behind = sorted((job, _gap(rows[job])) for jobs in mine.values() for job in jobs)
        return Cell(mean=mean, error=error, count=len(mine), paper=paper, behind=tuple(behind))
    full = {model: jobs for model, jobs in models.items() if model[0] == FULL}
    ours, theirs = _errors(mine, rows), _errors(full, rows)
    behind = sorted((job, _error(rows[job])) for jobs in (*mine.values(), *full.values()) for job in jobs)
    ratios = [100 * ours[name] / theirs[name] for name in ours if theirs.get(name)]
    whole = bool(ratios) and len(ratios) == len(ours)
    mean = math.fsum(ratios) / len(ratios) if whole else None
    return Cell(
        mean=mean, error=None, count=len(mine) if whole else 0, paper=paper, behind=tuple(behind) if whole else ()
    )


def _gap(row: Mapping[str, Any]) -> float:
    return float(row["corrupted_loss"]) - float(row["train_loss"])


def _error(row: Mapping[str, Any]) -> float:
    """Percent of the corrupted images that are taken for something else."""
    return 100 * (1 - float(row["corrupted_accuracy"]))


def _errors(models: Whole, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The mean error under each corruption, over models and severities."""
    found: dict[str, list[float]] = defaultdict(list)
    for jobs in models.values():
        for job, corruption in jobs.items():
            found[corruption].append(_error(rows[job]))
    return {corruption: math.fsum(sorted(errors)) / len(errors) for corruption, errors in sorted(found.items())}


def _remarks(
    declaration: Declaration, spec: Spec, groups: Iterable[Group], rows_of: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """How severities are averaged, and what the corrupted images are."""
    asked = [one for one in spec.declared_measures() if isinstance(one, Distortion)]
    severities = sorted({one.severity for one in asked})
    if not asked:
        return
    if "severity" not in declaration.rows:
        listed = ", ".join(map(str, severities))
        yield f"Each gap is the mean over the severities {listed}; the paper's table names none."
    yield (
        "CE: error under the corruption in percent of FP32's, summed over the row's severities; "
        f"the row {MEAN!r} has the means over the corruptions."
    )
    groups = list(groups)
    shown = {column.precision for column in declaration.columns}
    if unseen := sorted({name for group in groups for name, _ in group.jobs} - shown):
        yield f"No column shows {', '.join(unseen)}."
    jobs = {job: corruption for group in groups for some in group.jobs.values() for job, corruption in some.items()}
    if lacking := [job for job in jobs if job not in rows_of]:
        which = ", ".join(_in_order({jobs[job] for job in lacking}))
        yield f"{len(jobs) - len(lacking):,} of {len(jobs):,} distortions are done; incomplete: {which}."
    yield from _sources([row for job, row in rows_of.items() if job in jobs and row["source"] is not None])


def _sources(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the corrupted images are: published or generated, and whether they were the same for all models."""
    generated = _in_order({row["corruption"] for row in rows if row["source"] == "generated"})
    if generated:
        which = ", ".join(generated) if any(row["source"] == "published" for row in rows) else "all"
        yield f"Corrupted images generated here, with the published constants: {which}."
    if any(row["frost"] == "synthetic" for row in rows):
        yield "Frost is synthetic: no photographs of frost were at hand."
    seen: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in rows:
        seen[tuple(row[name] for name in IMAGES)].add(row["fingerprint"])
    if differing := _in_order({images[0] for images, found in seen.items() if len(found) > 1}):
        yield f"Not every model was judged by the same images of {', '.join(differing)}."


def _in_order(corruptions: Iterable[str]) -> list[str]:
    return sorted(corruptions, key=CORRUPTIONS.index)
