"""What a row of a table averages over, beside what its declaration says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from qsweep.reports.declaration import OF_RUNS, Declaration
from qsweep.reports.quantization import NAMING, filled, parts_of, setting_text
from qsweep.sweeps.components import PARTS

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
    if declaration.kind in OF_RUNS:
        names = [name for model in models for name in model if name not in {*declaration.rows, *declaration.averages}]
        found = ((name, _values(models, name)) for name in dict.fromkeys(names))
    else:
        varying = _varying(models)
        found = ((name, _values(_told_apart(models, name, varying), name)) for name in dict.fromkeys(names))
    return tuple(f"{name} {values}" for name, values in found if values)


def _varying(models: Sequence[Mapping[str, Any]]) -> set[str]:
    """The settings that not all of these models have, or not with one value: by columns, for there may be a million."""
    shapes: dict[tuple[str, ...], list[Iterable[Any]]] = {}
    for model in models:
        shapes.setdefault(tuple(model), []).append(model.values())
    values: dict[str, set[Any]] = {}
    for names, rows in shapes.items():
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            values.setdefault(name, set()).update(column)
    common = set(values).intersection(*shapes)
    return {name for name, some in values.items() if len(some) > 1 or name not in common}


def _told_apart(
    models: Sequence[Mapping[str, Any]], name: str, varying: Collection[str]
) -> Collection[Mapping[str, Any]]:
    """One model of each value of what decides its value of a setting: the setting itself and, where it is left out,
    the components of the parts that may have it."""
    deciding = [name, *(part.name for part in parts_of(name))]
    if not any(one in varying for one in deciding):
        return models[:1]
    return {tuple((type(value := model.get(one)), value) for one in deciding): model for model in models}.values()


def _values(models: Iterable[Mapping[str, Any]], name: str) -> str:
    """The values of a setting, if there are several; models that have no such setting don't count."""
    found = {setting_text(value): value for row in models if (value := filled(row, name)) is not None}
    if len(found) < 2:
        return ""
    ordered = sorted(found, key=lambda text: (isinstance(found[text], str), found[text]))
    return ", ".join(ordered[:FEW]) + (f", … ({len(ordered)} values)" if len(ordered) > FEW else "")
