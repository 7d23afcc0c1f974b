"""What a sweep asks to be answered: whether that can be, and about which jobs. Reads no results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsweep.db.rows import Sweep
from qsweep.reports.declaration import Declaration, declared_tables, paper_values, tables_of
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.grid import Settings
from qsweep.sweeps.spec import Spec, matching


def spec_of(sweep: Sweep) -> Spec:
    """The resolved specification of a registered sweep."""
    return Spec.from_json(sweep.spec, place=sweep.title)


def check_answers(spec: Spec) -> None:
    """Raise InputError if the sweep names a table, or a data set of the paper, that there is not."""
    own = dict(spec.declarations)
    for name in spec.tables:
        if name not in own and name not in declared_tables():
            place = f"{spec.place}: tables"
            allowed = f"{nearest(name, declared_tables())} (or a file beside it, NAME.toml)"
            raise InputError(f"there is no table {name!r}", place=place, allowed=allowed)
    tables = tables_of(spec)
    for table in tables:
        if table.where is not None:
            jobs_of(table, spec, f"{spec.place}: {table.name}: where")
    known = {keys[0] for table in tables for keys in paper_values(table)}
    if spec.compare_with is not None and spec.compare_with not in known:
        place = f"{spec.place}: compare_with"
        allowed = "allowed: " + (", ".join(sorted(known)) or "none without a table")
        raise InputError(f"the paper has no {spec.compare_with!r}", place=place, allowed=allowed)


def jobs_of(declaration: Declaration, spec: Spec, place: str) -> Mapping[str, Mapping[str, Any]]:
    """The settings of every job of the sweep that the table is about. Raises InputError."""
    if declaration.made_by != "means":
        return {}
    from qsweep.db.schema import ROW_KINDS  # here: it imports Arrow, and a launch that only begins needs none

    jobs = spec.jobs().of(ROW_KINDS[declaration.kind].of)
    if declaration.where is None:
        return Settings(jobs)
    try:
        return Settings(list(matching(jobs, declaration.where)))
    except InputError as error:
        raise InputError(error.problem, place=place, allowed=error.allowed) from None
