"""From a registered sweep to its tables."""

from __future__ import annotations

from collections.abc import Sequence

from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import Sweep
from reports.declaration import Declaration, declared_tables, find_table, paper_values
from reports.flatness import make_flatness_table
from reports.render import Format, Layout, render
from reports.table import make_table
from sweeps.errors import InputError, nearest
from sweeps.job import Kind
from sweeps.spec import Spec

MEASURED = ["job", "diverged", "saturated", "value_init", "value_orig", "flatness", "weight_norm"]
"""Columns of `measures` that Tables 2 and 3 need."""


def spec_of(sweep: Sweep) -> Spec:
    """The resolved specification of a registered sweep."""
    return Spec.from_json(sweep.spec, place=sweep.title)


def check_answers(spec: Spec) -> None:
    """Raise InputError if the sweep names a table, or a data set of the paper, that there is not."""
    for name in spec.tables:
        if name not in declared_tables():
            place = f"{spec.place}: tables"
            raise InputError(f"there is no table {name!r}", place=place, allowed=nearest(name, declared_tables()))
    known = {keys[0] for name in spec.tables for keys in paper_values(find_table(name))}
    if spec.compare_with is not None and spec.compare_with not in known:
        place = f"{spec.place}: compare_with"
        allowed = "allowed: " + (", ".join(sorted(known)) or "none without a table")
        raise InputError(f"the paper has no {spec.compare_with!r}", place=place, allowed=allowed)


def chosen_tables(spec: Spec, number: int | None) -> list[Declaration]:
    """The sweep's declared tables, or the one with that number. Raises InputError."""
    tables = [find_table(name) for name in spec.tables]
    if number is None:
        return tables
    chosen = [table for table in tables if table.number == number]
    if not chosen:
        raise InputError(
            f"{spec.name} has no table {number}",
            place="--table",
            allowed="allowed: " + (", ".join(str(table.number) for table in tables) or "none"),
        )
    return chosen


def render_tables(
    home: Home, registry: Registry, sweep: Sweep, form: Format, layout: Layout, *, number: int | None = None
) -> str:
    """The sweep's tables as one text, from its committed results."""
    spec = spec_of(sweep)
    jobs = [job.settings() for job in spec.jobs() if job.kind is Kind.TRAIN]
    committed = registry.committed(sweep.id)
    store = ResultStore(home.results)
    texts = []
    for declaration in chosen_tables(spec, number):
        if declaration.kind == "measures":
            found = store.read("measures", committed, columns=MEASURED).to_pylist()
            made = make_flatness_table(declaration, heading=sweep.title, spec=spec, results=found)
            texts.append(render(made, form, layout))
            continue
        columns = ["job", "diverged", *_needed(jobs, declaration)]
        table = make_table(
            declaration,
            heading=sweep.title,
            jobs=jobs,
            results=store.read(declaration.kind, committed, columns=columns).to_pylist(),
            compare_with=spec.compare_with,
        )
        texts.append(render(table, form, layout))
    return "\n".join(texts)


def _needed(jobs: Sequence[object], declaration: Declaration) -> list[str]:
    """The columns of the results that a table needs: settings to group by, and values."""
    return ["data", "model", "bits", *dict.fromkeys(column.value for column in declaration.columns)]
