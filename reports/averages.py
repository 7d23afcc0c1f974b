"""What a row of a table averages over, beside what its declaration says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qsweep.reports.declaration import OF_RUNS, Declaration
from qsweep.reports.quantization import NAMING, filled, setting_text
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.training import Training

TOLD = {
    "dataset": ("data",),
    "network": ("model",),
    "precision": tuple(name for part in NAMING for name in part.own),
}
"""The settings that a key of a row tells, where they are called otherwise."""
FEW = 6
"""Most values, and most rows, that are named."""


def averaged_over(declaration: Declaration, models: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The settings in which these models differ, that one row averages, with their values: `outer_bits 4, 8`.

    Without those that the table has as keys or columns, and those that it declares to average over.
    """
    told = {name for key in declaration.rows for name in TOLD.get(key, (key,))} | set(declaration.averages)
    told |= set(TOLD["precision"]) if any(column.precision for column in declaration.columns) else set()
    names = [name for part in PARTS.values() for name in part.columns() if name not in told]
    different = _different(models)
    if declaration.kind in OF_RUNS:
        names = [name for model in models for name in model if name not in {*declaration.rows, *declaration.averages}]
        different = list(models)
    found = ((name, _values(different, name)) for name in dict.fromkeys(names))
    return tuple(f"{name} {values}" for name, values in found if values)


def _different(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One model of each combination of settings."""
    known = sorted(Training.known())
    return list({tuple(map(model.get, known)): model for model in models}.values())


def _values(models: Iterable[Mapping[str, Any]], name: str) -> str:
    """The values of a setting, if there are several; models that have no such setting don't count."""
    found = {setting_text(value): value for row in models if (value := filled(row, name)) is not None}
    if len(found) < 2:
        return ""
    ordered = sorted(found, key=lambda text: (isinstance(found[text], str), found[text]))
    return ", ".join(ordered[:FEW]) + (f", … ({len(ordered)} values)" if len(ordered) > FEW else "")
