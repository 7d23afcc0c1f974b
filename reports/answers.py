"""From a source of answers to the sweep's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsweep.db.schema import ROW_KINDS
from qsweep.reports.changed import changed_from_builtin
from qsweep.reports.declaration import Declaration, read_table, tables_of, with_medians
from qsweep.reports.demands import jobs_of
from qsweep.reports.distortion import NEEDED, make_distortion_table
from qsweep.reports.flatness import make_flatness_table
from qsweep.reports.formats import Format
from qsweep.reports.of_calls import lacking, table_of_calls, with_numbers
from qsweep.reports.outliers import LOSSES
from qsweep.reports.render import Layout, render_all
from qsweep.reports.source import Source
from qsweep.reports.table import Table, make_table, with_doubts
from qsweep.reports.widening import VIEW, wide_rows
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import QUANTIZATION
from qsweep.sweeps.modules import Module
from qsweep.sweeps.operations import bit_operations
from qsweep.sweeps.spec import Spec
from qsweep.sweeps.training import Training

MEASURED = ["job", "diverged", "saturated", "value_init", "value_orig", "flatness", "weight_norm"]
"""Columns of `measures` that Tables 2 and 3 need."""


def chosen_tables(spec: Spec, chosen: str | None) -> list[Declaration]:
    """The sweep's declared tables; or the one of that number or name, or in that file. Raises InputError."""
    if chosen is not None and chosen.endswith(".toml") and chosen not in dict(spec.declarations):
        return [read_table(Path(chosen), spec)]
    tables = tables_of(spec)
    if chosen is None:
        return tables
    found = [table for table in tables if chosen in (str(table.number), table.name, f"{table.name}.toml")]
    if not found:
        names = ", ".join(table.name if table.number is None else str(table.number) for table in tables)
        raise InputError(
            f"{spec.name} has no table {chosen}", place="--table", allowed=f"allowed: {names or 'none'}, or a FILE.toml"
        )
    return found


def make_tables(source: Source, chosen: str | None = None, *, median: bool = False) -> list[Table]:
    """The sweep's tables, or the chosen one, from its results so far; `median` in place of means. Raises InputError."""
    tables = chosen_tables(source.spec, chosen)
    if source.spec.calls and not tables:
        tables = table_of_calls(source)
    if median:
        tables = [one if chosen is None and one.made_by != "means" else with_medians(one) for one in tables]
    return [with_doubts(_made(source, one)) for one in tables]


def render_tables(
    source: Source, form: Format, layout: Layout, *, chosen: str | None = None, median: bool = False
) -> str:
    """The sweep's tables as one text."""
    return render_all(make_tables(source, chosen, median=median), form, layout)


def with_bit_operations(
    results: Sequence[Mapping[str, Any]], jobs: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The rows with their bit operations, which rows of earlier versions lack: they follow from a job's settings. A
    module of a user's has none."""
    found = []
    for one in results:
        if one["bops"] is None and one["job"] in jobs:
            training = Training.from_settings(jobs[one["job"]])
            one = one if isinstance(training.model, Module) else {**one, "bops": bit_operations(training)}
        found.append(one)
    return found


def _made(source: Source, declaration: Declaration) -> Table:
    if declaration.made_by == "flatness":
        found = source.read("measures", MEASURED).to_pylist()
        return make_flatness_table(declaration, heading=source.title, spec=source.spec, results=found)
    if declaration.made_by == "distortion":
        return make_distortion_table(
            declaration,
            heading=source.title,
            spec=source.spec,
            results=source.read("distortions", NEEDED).to_pylist(),
            compare_with=source.spec.compare_with,
        )
    if declaration.kind == VIEW:
        table = make_table(
            declaration,
            heading=source.title,
            jobs=jobs_of(declaration, source.spec, f"{declaration.name}: where"),
            results=with_numbers(wide_rows(source), [one.value for one in declaration.columns], declaration.name),
        )
        return replace(table, remarks=(*table.remarks, *lacking(table)))
    known = ROW_KINDS[declaration.kind].columns.names
    columns = ["job", *(["diverged"] if "diverged" in known else []), *(one.value for one in declaration.columns)]
    columns += LOSSES if declaration.kind == "runs" else ()
    jobs = jobs_of(declaration, source.spec, f"{declaration.name}: where")
    results = source.read(declaration.kind, list(dict.fromkeys(columns))).to_pylist()
    table = make_table(
        declaration,
        heading=source.title,
        jobs=jobs,
        results=with_bit_operations(results, jobs) if "bops" in columns else results,
        compare_with=source.spec.compare_with,
    )
    changed = changed_from_builtin(source.spec) if declaration.kind in QUANTIZATION.rows else None
    return table if changed is None else replace(table, remarks=(*table.remarks, changed))
