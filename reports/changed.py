"""In what a launched variant of a built-in sweep differs from the sweep as it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qsweep.reports.quantization import setting_text
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import builtin_names, read_sweep
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.spec import Entry, Spec
from qsweep.sweeps.zero_shot import ROUNDINGS, SYNTHESES

Values = Mapping[str, tuple[Setting, ...]]


def changed_from_builtin(spec: Spec) -> str | None:
    """What a reader of its tables has to know: the settings that `--set` has changed, each with what is written.

    None of a sweep that is no built-in one, or has its settings.
    """
    if spec.name not in builtin_names():
        return None
    try:
        written = read_sweep(spec.name)
    except InputError:
        return None
    ours, theirs = _values(spec), _values(written)
    changed = [
        f"{name} {_text(values)} ({_text(theirs.get(name, _defaults(name)))})"
        for name, values in ours.items()
        if values != theirs.get(name, _defaults(name))
    ]
    return f"Not as {spec.name} is written, in parentheses: {', '.join(changed)}." if changed else None


def _values(spec: Spec) -> dict[str, tuple[Setting, ...]]:
    """The values of every setting, wherever it is given."""
    found: dict[str, dict[Setting, None]] = {}
    given: list[Iterable[tuple[str, Sequence[Setting]]]] = [((name, (value,)) for name, value in spec.fixed)]
    given.append((axis.name, [*axis.values, *(one for _, some in axis.branches for one in some)]) for axis in spec.axes)
    entries: tuple[Entry, ...] = (*spec.zero_shot, *spec.measures)
    for some in (*given, *entries):
        for name, values in some:
            found.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: tuple(values) for name, values in found.items()}


def _defaults(name: str) -> tuple[Setting, ...]:
    """What a setting of `[[zero_shot]]` is that is not given."""
    classes: tuple[type[Any], ...] = (*SYNTHESES.values(), *ROUNDINGS.values())
    fields = (field for one in classes for field in dataclasses.fields(one))
    found = {field.default for field in fields if field.name == name and field.default is not dataclasses.MISSING}
    return tuple(found)


def _text(values: Sequence[Setting]) -> str:
    return ", ".join(map(setting_text, values)) or "not given"
